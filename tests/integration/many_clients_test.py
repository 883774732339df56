"""Sixteen clients at once, each with its own connection, prompt, sampling and drafting: every one gets exactly the ids that
it gets alone by plain decoding."""
from client import Client, PUBLISHED, QUESTIONS, Stream
from cluster import ClusterTest, main

CLIENTS = 16
DRAFTS = [{"nodes": 0}, {}, {"tree": PUBLISHED}, {"nodes": 1}, {"nodes": 24}]
SAMPLING = [{}, {"temperature": 0.7}, {"temperature": 1, "top_k": 50, "top_p": 0.95}, {"temperature": 1.2, "min_p": 0.02}]


def asked_by(client):
    """What client number `client` asks, apart from how to draft."""
    fields = {"max_tokens": 40 + 20 * (client % 5), "seed": client, "ignore_eos": client % 3 == 0, **SAMPLING[client % 4]}
    return [("user", QUESTIONS[client])] if client % 2 == 0 else QUESTIONS[client], fields


class ManyClientsTest(ClusterTest):

    def ask_at_once(self, drafts_of):
        streams = []
        for number in range(CLIENTS):
            prompt, fields = asked_by(number)
            client = Client(self.cluster.gateway)
            streams.append(Stream(client.start(prompt, **drafts_of(number), **fields)))
        return [stream.answer() for stream in streams]

    def test_each_gets_what_it_gets_alone(self):
        client = Client(self.cluster.gateway)
        alone = []
        for number in range(CLIENTS):
            prompt, fields = asked_by(number)
            alone.append(client.ask(prompt, nodes=0, **fields))
        for turn in range(2):  # the second finds a store that knows the answers
            steps_before = self.cluster.worker.metric("clamor_step_rows_count")
            together = self.ask_at_once(lambda number: DRAFTS[(number + turn) % len(DRAFTS)])
            for number, (one, other) in enumerate(zip(alone, together)):
                with self.subTest(turn=turn, client=number):
                    self.assertEqual(other.ids, one.ids)
                    self.assertEqual(other.text, one.text)
                    self.assertEqual(other.finished.reason, one.finished.reason)
            steps = self.cluster.worker.metric("clamor_step_rows_count") - steps_before
            forwards = sum(answer.finished.speculation.forwards for answer in together)
            print(f"{CLIENTS} answers at once: {forwards} forwards in {steps:.0f} steps")
            self.assertLess(steps, forwards / 2)  # they did share them


if __name__ == "__main__":
    main()
