#!/usr/bin/python3
"""A thousand streams through one gateway, 64 of them of clients that do not read: what the gateway costs, and whom they hurt.

Behind the gateway is replay_worker, which needs no model; it makes steps, as an engine does, so that the tokens of some streams
come together (--step-ms 0: each at a time of its own, so that each wakes a gateway that has nothing else to do). The same
streams run three times: straight to replay_worker, through the gateway, and through it with the clients that do not read
beside them on the same connection.

    bench/serving/relay.py                        # after a build of preset release; CLAMOR_BIN_DIR for another one
    bench/serving/relay.py --gateway-cpus 0 --other-cpus 1 --output relay.json

A token's way is the time from replay_worker's write to the client; what the gateway adds is the difference to the way
without it, quantile by quantile.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/integration"))

from cluster import BIN_DIR, DEMO_MODEL, Server

LEAST_TOKENS = 20_000  # relayed for a second of the gateway's processor


def pin(pid, cpus):
    if cpus:
        subprocess.run(["taskset", "-acp", cpus, str(pid)], check=True, capture_output=True)


def stream(flags, address, streams, stalled, *more):
    """The JSON of one run of relay_bench."""
    command = [BIN_DIR / "relay_bench", "--server", address, "--streams", streams, "--stalled", stalled,
               "--seconds", flags.seconds, "--window", flags.window, *more]
    if flags.other_cpus:
        command = ["taskset", "-c", flags.other_cpus, *command]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"relay_bench failed: {done.stderr}")
    return json.loads(done.stdout)


def measure(flags, folder):
    worker = Server("replay_worker", folder, "--model", DEMO_MODEL, "--pace", flags.pace,
                    "--message-tokens", flags.message_tokens, "--step-ms", flags.step_ms).start()
    gateway = Server("clamor-gateway", folder, "--workers", worker.address, "--max-pending-bytes", flags.max_pending).start()
    try:
        gateway.wait_ready()
        pin(worker.process.pid, flags.other_cpus)
        pin(gateway.process.pid, flags.gateway_cpus)
        reading = flags.streams - flags.stalled
        pid = ("--pid", gateway.process.pid)
        runs = {"without a gateway": stream(flags, worker.address, reading, 0),
                "gateway": stream(flags, gateway.address, reading, 0, *pid),
                "gateway, some do not read": stream(flags, gateway.address, flags.streams, flags.stalled, *pid)}
        slow = {"metric": gateway.metric("clamor_gateway_requests_total", method="StreamGenerate", reason="SLOW_CONSUMER"),
                "log": gateway.log.read_text().count("reason=SLOW_CONSUMER"),
                "open": gateway.metric("clamor_gateway_streams_open")}
        return {"options": vars(flags), "runs": runs, "slow_consumers": slow}
    finally:
        for server in (gateway, worker):
            server.terminate()
            server.wait_exit()


def show(report):
    runs = report["runs"]
    ms = lambda seconds: f"{1000 * seconds:.2f}"
    print(f"{'':27} {'streams':>7} {'tokens/s':>9} {'way p50':>8} {'p99 ms':>8} {'between p50':>12} {'p99 ms':>8} {'tokens/cpu s':>13}")
    for name, run in runs.items():
        per_cpu = f"{run['tokens'] / run['cpu_seconds']:,.0f}" if "cpu_seconds" in run else "-"
        print(f"{name:27} {run['streams']:7} {run['tokens_per_second']:9,.0f} {ms(run['on_its_way']['p50']):>8} "
              f"{ms(run['on_its_way']['p99']):>8} {ms(run['between_messages']['p50']):>12} {ms(run['between_messages']['p99']):>8} "
              f"{per_cpu:>13}")
    direct, relayed, mixed = runs.values()
    for name, run in (("gateway", relayed), ("some do not read", mixed)):
        added = [1000 * (run["on_its_way"][q] - direct["on_its_way"][q]) for q in ("p50", "p99")]
        cpu = 1000 * run["cpu_seconds"] / run["tokens"] * 1000
        print(f"{name}: a token's way is longer by {added[0]:.2f} ms, p99 {added[1]:.2f} ms; "
              f"{cpu / 1000:.3f} s of processor for 1,000 tokens")
    print(f"memory: {relayed['rss_mib_before']:.0f} MiB before, {mixed['rss_mib']:.0f} with all streams, "
          f"{mixed['rss_mib_after']:.0f} after them")
    print(f"streams ended: {mixed['ends']}; slow consumers by metric {report['slow_consumers']['metric']:.0f}, "
          f"in the log {report['slow_consumers']['log']}, streams open {report['slow_consumers']['open']:.0f}")
    per_cpu = relayed["tokens"] / relayed["cpu_seconds"]
    print(f"tokens relayed for a second of processor: {per_cpu:,.0f}, wanted {LEAST_TOKENS:,}: "
          f"{'reached' if per_cpu >= LEAST_TOKENS else 'MISSED'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--stalled", type=int, default=64, help="of these, in the last run")
    parser.add_argument("--pace", type=float, default=10, help="tokens a second of a stream")
    parser.add_argument("--step-ms", type=float, default=5, help="of replay_worker's engine; 0: no steps")
    parser.add_argument("--message-tokens", type=int, default=1, help="tokens of a message")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--window", type=int, default=2048, help="bytes that a client lets be sent ahead of its reads")
    parser.add_argument("--max-pending", type=int, default=2048, help="the gateway's --max-pending-bytes")
    parser.add_argument("--gateway-cpus", default="", help="taskset's list for the gateway")
    parser.add_argument("--other-cpus", default="", help="taskset's list for replay_worker and clients")
    parser.add_argument("--output", help="file for the figures as JSON")
    flags = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="clamor-relay-"))
    try:
        report = measure(flags, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(report)
    if flags.output:
        pathlib.Path(flags.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
