from __future__ import annotations
from pathlib import Path
from tests.scenarios.test_target_commands import say, requests, more_answers, Say  # noqa: F401
from tests.support.fastlb import FastlbProcess
from tests.support.scaling import ask
from tests.support.load import LoadClient
from tests.support.processes import wait_until
from tests.support.raw_target import RawTarget, echo_requests

def conf(*targets: str, algorithm: str = "round_robin") -> str:
    return ('[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { forward = "web" }\n'
      f'[target_groups.web]\nalgorithm = "{algorithm}"\ntargets = [{", ".join(chr(34)+t+chr(34) for t in targets)}]\n')

def test_it(run_root: Path, tmp_path: Path, start_raw_target, say) -> None:  # noqa
    a, b, c, d = (start_raw_target(echo_requests) for _ in range(4))
    file = tmp_path / "f.toml"
    file.write_text(conf(str(a), str(b), str(c)))
    with FastlbProcess(run_root, "--config", str(file), listen=(), workers=2) as fastlb:
        fastlb.wait_states()
        with LoadClient(fastlb.port, connections=8, check="none") as load:
            load.started()
            assert say(fastlb, f"drain {a} --reason x")[0] == 0
            assert say(fastlb, f"weight {b} 50%")[0] == 0
            assert say(fastlb, f"target remove web {c} --wait")[0] == 0
            assert say(fastlb, f"target add web {d}")[0] == 0
            def over():
                return {k: v["override"] for k, v in fastlb.targets().items()}
            want = {str(a): "drained", str(b): "weight 50%", str(d): "added"}
            assert over() == want
            # b's weight changes, algorithm changes
            file.write_text(conf(str(a), str(b) + ",weight=4", str(c), algorithm="weighted_random"))
            answer = ask(fastlb.run_dir / fastlb.name, "reload", wait=10)
            print(answer)
            assert "error" not in answer
            assert over() == want
            assert fastlb.targets()[str(b)]["weight"] == 2
            assert fastlb.targets()[str(a)]["state"] == "draining"
            # a goes, d is configured now, c stays removed
            file.write_text(conf(str(b), str(c), str(d)))
            answer = ask(fastlb.run_dir / fastlb.name, "reload", wait=10)
            print(answer)
            wait_until(lambda: over() == {str(b): "weight 50%", str(d): None}, 10, "gone")
            # a back: not drained any more
            file.write_text(conf(str(a), str(b), str(c), str(d)))
            print(ask(fastlb.run_dir / fastlb.name, "reload", wait=10))
            wait_until(lambda: over() == {str(a): None, str(b): "weight 50%", str(d): None}, 10, "back")
            fastlb.wait_states()
            more_answers(fastlb, 200)
            assert say(fastlb, f"target add web {c}")[0] == 0
            fastlb.wait_states()
            result = load.stop()
            assert not result.failures, result
        assert "Traceback" not in fastlb.log()
        fastlb.stop()
