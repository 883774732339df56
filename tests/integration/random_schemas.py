"""Schemas at random, of every keyword that answers can be made to fit, and a dull validator that says what does not fit."""
import json

NAMES = ["ant", "bee", "cat", "a b", "ü", "x\"y", "zebra", "7"]
CONSTANTS = ["a", "b", "two words", 7, -1, 2.5, None, True, False, [], [1, "x"], {"k": "v"}, {"k": [None]}]
SCALARS = ["integer", "number", "boolean", "null", "string"]
# What we do not know, each with a value that makes it mean something.
UNKNOWN = {"pattern": "^a", "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2, "uniqueItems": True, "not": {"type": "null"},
           "if": {"type": "null"}, "patternProperties": {"^a": {}}, "propertyNames": {"maxLength": 3}, "contains": {"type": "null"},
           "dependentRequired": {"a": ["b"]}, "unevaluatedItems": False, "minProperties": 1, "format": "date", "$anchor": "here"}


class RandomSchema:
    """Draws from `rng`; `root` is the whole. Objects on top, so that answers are worth parsing."""

    def __init__(self, rng):
        self.rng = rng
        self.shared = {name: self.typed("integer" if name == "whole" else "object", 2) for name in ("whole", "thing")}
        self.root = self.typed("object", 0)
        if rng.random() < 0.4:  # a way back to the top that nobody has to take
            self.root["properties"]["again"] = {"$ref": "#"}
        self.root["$defs"] = self.shared

    def any(self, depth):
        kinds = SCALARS + ["enum", "const", "types"]
        if depth < 3:
            kinds += ["object", "array", "object", "array", "anyOf", "oneOf", "allOf", "$ref"]
        kind = self.rng.choice(kinds)
        if kind == "enum":
            return {"enum": self.rng.sample(CONSTANTS, self.rng.randint(1, 4))}
        if kind == "const":
            return {"const": self.rng.choice(CONSTANTS)}
        if kind == "types":
            return {"type": self.rng.sample(["boolean", "null", "string", "number"], 2)}
        if kind == "anyOf":
            return {"anyOf": [self.any(depth + 1) for _ in range(self.rng.randint(1, 3))]}
        if kind == "oneOf":  # nothing may fit two of them
            return {"oneOf": [self.typed(kind, depth + 1) for kind in self.rng.sample(["boolean", "null", "string", "object"], 2)]}
        if kind == "allOf":
            return {"allOf": [self.any(depth + 1)]}
        if kind == "$ref":
            return {"$ref": f"#/$defs/{self.rng.choice(['whole', 'thing'])}"}
        return self.typed(kind, depth)

    def typed(self, kind, depth):
        schema = {"type": kind}
        if self.rng.random() < 0.2:
            schema["description"] = "a note that changes nothing"
        low, high = sorted(self.rng.randint(0, 4) for _ in range(2))
        if kind == "string" and self.rng.random() < 0.8:
            schema.update(minLength=low, maxLength=3 * high)
        elif kind == "array":
            schema.update(minItems=low, maxItems=high)
            if self.rng.random() < 0.3:
                schema["prefixItems"] = [self.any(depth + 1) for _ in range(self.rng.randint(1, 2))]
            schema["items"] = self.any(depth + 1)
        elif kind == "object":
            names = self.rng.sample(NAMES, self.rng.randint(1, 3))
            schema["properties"] = {name: self.any(depth + 1) for name in names}
            schema["required"] = [name for name in names if self.rng.random() < 0.7]
            closed = self.rng.random()
            if closed < 0.6:
                schema["additionalProperties"] = False
            elif closed < 0.8:
                schema["additionalProperties"] = self.typed(self.rng.choice(SCALARS), depth + 1)
        return schema

    def spoiled(self):
        """The root with a keyword somewhere that we do not know, and that keyword."""
        keyword = self.rng.choice(sorted(UNKNOWN))
        root = json.loads(json.dumps(self.root))
        place = root
        while self.rng.random() < 0.5 and place.get("properties"):
            inner = self.rng.choice(list(place["properties"].values()))
            if inner.get("type") not in ("object", "array", "string", "integer", "number"):
                break
            place = inner
        place[keyword] = UNKNOWN[keyword]
        return root, keyword


def same(a, b):
    """Equal as JSON, where true is not 1."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def has_type(value, kind):
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int,
                              "boolean": bool, "null": type(None)}[kind])


def fits(value, schema, root):
    """Whether it does, and has its properties in the order of the schema."""
    if "$ref" in schema:
        target = root
        for step in schema["$ref"].split("/")[1:]:
            target = target[step]
        return fits(value, target, root)
    if "enum" in schema:
        return any(same(value, each) for each in schema["enum"])
    if "const" in schema:
        return same(value, schema["const"])
    for keyword, right in (("anyOf", lambda n: n > 0), ("oneOf", lambda n: n == 1), ("allOf", lambda n: n == len(schema["allOf"]))):
        if keyword in schema:
            return right(sum(fits(value, each, root) for each in schema[keyword]))
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(has_type(value, kind) for kind in types):
        return False
    if isinstance(value, str):
        return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
    if isinstance(value, list):
        prefix = schema.get("prefixItems", [])
        return (schema["minItems"] <= len(value) <= schema["maxItems"]
                and all(fits(item, prefix[i] if i < len(prefix) else schema["items"], root) for i, item in enumerate(value)))
    if isinstance(value, dict):
        properties, more = schema["properties"], schema.get("additionalProperties", False)
        named = [name for name in value if name in properties]
        return (set(schema["required"]) <= set(named) and named == [name for name in properties if name in value]
                and all(fits(value[name], properties[name], root) for name in named)
                and all(more is not False and fits(value[name], more, root) for name in value if name not in properties))
    return True
