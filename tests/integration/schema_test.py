"""Answers to schemas at random, over the edge: what comes parses and fits, by a validator of our own and, where it is
installed, by the jsonschema package; a keyword that we do not know is refused by its name. CLAMOR_SCHEMAS says how many."""
import concurrent.futures
import importlib.util
import json
import os
import random
import unittest

from client import QUESTIONS
from cluster import ClusterTest, main
from openai_client import CHAT, Api
from random_schemas import RandomSchema, fits

SCHEMAS = int(os.environ.get("CLAMOR_SCHEMAS", "40"))
TRIES = 6
QUESTION = [{"role": "user", "content": QUESTIONS[0]}]


def form_of(schema):
    return {"type": "json_schema", "json_schema": {"name": "drawn", "schema": schema}}


def agrees(value, schema):
    """Whether somebody else's validator accepts it as well; True where there is none."""
    if importlib.util.find_spec("jsonschema") is None:
        return True
    import jsonschema
    return jsonschema.Draft202012Validator(schema).is_valid(value)


class SchemaTest(ClusterTest):
    worker_flags = ("--threads", "1", "--max-sequences", "8", "--max-waiting", "16")

    def setUp(self):
        self.api = Api(self.cluster.gateway)

    def test_answers_fit(self):
        drawn = [RandomSchema(random.Random(number)).root for number in range(SCHEMAS)]

        def ask(number):
            """The first answer that ends by itself: this model may go on and on with a number."""
            for attempt in range(TRIES):
                answer = self.api.ask(messages=QUESTION, max_tokens=400, temperature=1, seed=TRIES * number + attempt,
                                      response_format=form_of(drawn[number]))
                choice = answer["choices"][0]
                if choice["finish_reason"] == "stop":
                    return choice["message"]["content"]
            return None

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            texts = list(pool.map(ask, range(SCHEMAS)))
        for schema, text in zip(drawn, texts):
            if text is not None:
                value = json.loads(text)
                self.assertTrue(fits(value, schema, schema), (schema, text))
                self.assertTrue(agrees(value, schema), (schema, text))
        ended = SCHEMAS - texts.count(None)
        print(f"{ended} of {SCHEMAS} schemas got an answer that ends, all of these fit")
        self.assertGreater(ended, 0.8 * SCHEMAS)

    def test_unknown_keywords_are_refused_by_name(self):
        for number in range(SCHEMAS):
            schema, keyword = RandomSchema(random.Random(number)).spoiled()
            status, error, _ = self.api.error("POST", CHAT, {"messages": QUESTION, "response_format": form_of(schema)})
            self.assertEqual((status, error["code"], error["param"]),
                             (400, "unsupported_schema", "response_format.json_schema.schema"), (schema, error))
            self.assertIn(keyword, error["message"])


class FitsTest(unittest.TestCase):
    """The validator can say no."""

    def test_no(self):
        def no(value, **schema):
            self.assertFalse(fits(value, schema, schema), (value, schema))
        no(True, type="integer")
        no(1.5, type="integer")
        no("abc", type="string", maxLength=2)
        no([1], type="array", items={"type": "null"}, minItems=0, maxItems=2)
        no([1, 1, 1], type="array", items={"type": "integer"}, minItems=0, maxItems=2)
        no({"b": 1, "a": 1}, type="object", required=[], properties={"a": {"type": "integer"}, "b": {"type": "integer"}})
        no({}, type="object", required=["a"], properties={"a": {"type": "integer"}})
        no({"c": 1}, type="object", required=[], properties={})
        no({"c": 1}, type="object", required=[], properties={}, additionalProperties={"type": "null"})
        no(1, enum=[True, "1"])
        no({"k": 2}, const={"k": 1})
        no(1, anyOf=[{"type": "null"}, {"type": "string"}])
        no(1, oneOf=[{"type": "integer"}, {"type": "number"}])
        no(1, allOf=[{"type": "null"}])


if __name__ == "__main__":
    main()
