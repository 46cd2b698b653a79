"""The server over gRPC: the same answers as on board, and a refusal for everything else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sa2va_model.checkpoints.adapters import decoder_fingerprint, fingerprint, save_adapter
from sa2va_model.errors import InputError
from sa2va_model.sa2va import Sa2VA
from sa2va_model.testing import nano_model
from sa2va_serve.server.background import BackgroundServer
from sa2va_serve.server.config import ServerConfig, ServerLimits
from sa2va_serve.server.pictures import PictureCache
from sa2va_serve.server.service import GroundingServer
from sa2va_serve.wire import codec
from sa2va_serve.wire import grounding_pb2 as pb
from sa2va_serve.wire import grounding_pb2_grpc as stubs


@contextmanager
def stub(port: int) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield stubs.GroundingStub(channel)


def ground(
    *frames: np.ndarray, robot: str = "r", sentences: tuple[str, ...] = ("the mug",), **header: Any
) -> pb.GroundRequest:
    keyframes = [pb.Keyframe(image=codec.encode_image(f, "png"), stamp_ns=7) for f in frames]
    named = pb.Header(robot_id=robot, request_id="1", **header)
    return pb.GroundRequest(header=named, keyframes=keyframes, sentences=sentences)


def refusal(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value


@contextmanager
def held(service: GroundingServer) -> Iterator[None]:
    """The model is at work on something else."""
    with service._model._turns._lock:
        yield


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_answer_is_that_of_the_model_on_board(
    server: BackgroundServer, nano: Sa2VA, frame: np.ndarray
) -> None:
    clip = [frame, frame[::-1].copy()]
    words = ("the mug", "the can", "x [SEG]", "<image>")
    with stub(server.port) as remote:
        reply = remote.Ground(ground(*clip, sentences=words, decoder=decoder_fingerprint(nano)))
    local = nano.ground_many(clip, words[:3])
    assert (reply.request_id, reply.stamp_ns) == ("1", 7)
    assert reply.decoder == decoder_fingerprint(nano)
    for meaning, mine in zip(reply.meanings, local, strict=False):
        assert torch.equal(
            codec.decode_embeddings(meaning.embeddings), mine.embeddings.half().float()
        )
        assert [0 < score <= 1 for score in meaning.scores] == [True]
    assert "expected words" in reply.meanings[3].error
    assert not any(meaning.error for meaning in reply.meanings[:3])
    assert reply.ByteSize() < 1000


def test_each_robot_s_frames_are_kept_for_its_next_sentence(
    server: BackgroundServer, service: GroundingServer, frame: np.ndarray
) -> None:
    looked = []
    hook = service._model.mllm.vision_model.register_forward_pre_hook(lambda *_: looked.append(1))
    with stub(server.port) as remote:
        for robot in ("a", "b", "a", "b"):
            picture = frame if robot == "a" else frame[::-1].copy()
            remote.Ground(ground(picture, robot=robot))
    hook.remove()
    assert len(looked) == 2


def test_sentences_of_several_robots_share_a_forward_and_are_answered_as_alone(
    nano: Sa2VA, frame: np.ndarray
) -> None:
    service = GroundingServer(nano, ServerLimits(together=3))
    config = ServerConfig(port=0, metrics_port=-1, grace=5, limits=service.limits)
    pictures = {robot: np.roll(frame, n, 0) for n, robot in enumerate("abcd")}
    words = {"a": ("the mug",), "b": ("<image>", "the can"), "c": ("a", "b"), "d": ("the mug",)}
    expected = {r: nano.ground_many([pictures[r]], words[r][-1:])[0] for r in "abcd"}
    with BackgroundServer(service, config) as server, stub(server.port) as remote:
        asked = {r: ground(pictures[r], sentences=words[r], robot=r) for r in "abcd"}
        for robot in "abc":
            remote.Ground(asked[robot])  # d's picture is new, and nobody waits until it is read
        with held(service):
            first = remote.Ground.future(ground(frame, robot="busy"))
            until(lambda: bool(service.engine._running))
            waiting = []
            for n, robot in enumerate("adbc"):
                waiting.append((robot, remote.Ground.future(asked[robot])))
                until(lambda n=n: service.queue_length == n + 1)  # type: ignore[misc]
        first.result()
        replies = {robot: call.result() for robot, call in waiting}
    assert {robot: reply.timings.together for robot, reply in replies.items()} == {
        "a": 3,
        "b": 3,
        "c": 3,
        "d": 1,
    }
    for robot, reply in replies.items():
        given = codec.decode_embeddings(reply.meanings[-1].embeddings)
        assert len(given) == 1
        assert torch.allclose(given, expected[robot].embeddings, rtol=2**-10, atol=1e-3), robot
    assert "expected words" in replies["b"].meanings[0].error


def test_a_picture_that_comes_again_is_not_unpacked_again(
    server: BackgroundServer, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub(server.port) as remote:
        first = remote.Ground(ground(frame, robot="a"))
        monkeypatch.setattr(codec, "decode_image", lambda *_: pytest.fail("unpacked"))
        for robot in "ab":
            assert remote.Ground(ground(frame, robot=robot)).meanings == first.meanings


def test_unpacked_pictures_that_were_not_used_for_longest_go_first(frame: np.ndarray) -> None:
    files = [codec.encode_image(np.roll(frame, n, 0), "png") for n in range(4)]
    cache = PictureCache(3 * frame.nbytes)
    for n in (0, 1, 2, 1):
        cache.unpack(files[n], "")
    assert (cache.bytes, cache.known(files[0]) is not None) == (3 * frame.nbytes, True)
    cache.unpack(files[3], "")
    assert [cache.known(file) is not None for file in files] == [True, False, True, True]
    assert np.array_equal(cache.known(files[3]), np.roll(frame, 3, 0))  # type: ignore[arg-type]
    assert PictureCache(0).unpack(files[0], "").nbytes == frame.nbytes


def test_prefixes_are_counted_once_and_those_not_used_for_longest_go_first(
    nano: Sa2VA, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sa2va_serve.server import prefixes

    weighed: list[int] = []
    weigh = prefixes.held_bytes
    monkeypatch.setattr(prefixes, "held_bytes", lambda s: weighed.append(weigh(s)) or weighed[-1])

    def look(cache: prefixes.PrefixCache, robots: str) -> None:
        for robot in robots:
            with nano.reading(cache.of(robot, "")):
                nano.ground([frame], "the mug")
            cache.trim()

    cache = prefixes.PrefixCache(nano, 1 << 40, most=3)
    look(cache, "abc")
    size = weighed[0]
    assert size > 0
    assert weighed == [size] * 3  # a robot's request does not weigh the others'
    assert cache.bytes == 3 * size
    look(cache, "ad")
    assert (len(cache), cache.bytes) == (3, 3 * size)
    assert cache.of("a", "").seen is not None
    assert cache.of("b", "").seen is None  # it was the oldest
    small = prefixes.PrefixCache(nano, size + 1)
    look(small, "ab")
    assert (len(small), small.bytes) == (1, size)
    look(prefixes.PrefixCache(nano, 1), "aa")  # the newest stays, however large


def test_what_is_refused_says_why(server: BackgroundServer, nano: Sa2VA, frame: np.ndarray) -> None:
    empty = ground(frame)
    del empty.keyframes[:]
    broken = ground(frame)
    broken.keyframes[0].image = b"no picture"
    cases = [
        (ground(frame, decoder="other"), "FAILED_PRECONDITION", "expected the same checkpoint"),
        (ground(frame, adapter="garden"), "NOT_FOUND", "adapter is 'garden'"),
        (ground(frame, robot=""), "INVALID_ARGUMENT", "robot_id"),
        (ground(frame, sentences=()), "INVALID_ARGUMENT", "sentences: 0"),
        (ground(frame, sentences=("a",) * 17), "INVALID_ARGUMENT", "sentences: 17"),
        (ground(*[frame] * 17), "INVALID_ARGUMENT", "keyframes: 17"),
        (empty, "INVALID_ARGUMENT", "keyframes: none"),
        (broken, "INVALID_ARGUMENT", "no JPEG or PNG"),
    ]
    with stub(server.port) as remote:
        for request, code, words in cases:
            error = refusal(lambda request=request: remote.Ground(request))  # type: ignore[misc]
            assert (error.code().name, words in error.details()) == (code, True), error.details()
        broken.keyframes[0].image = bytes(50 << 20)
        error = refusal(lambda: remote.Ground(broken))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert remote.Ground(ground(frame)).meanings[0].found


def test_a_full_queue_refuses_at_once_and_nothing_is_mixed_up(
    nano: Sa2VA, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = GroundingServer(nano, ServerLimits(waiting=3, waiting_of_one=1, together=1))
    config = ServerConfig(port=0, metrics_port=-1, grace=5, limits=service.limits)
    pictures = [np.roll(frame, n, 0) for n in range(8)]
    expected = [nano.ground([p], "the mug").embeddings.half().float() for p in pictures]
    with BackgroundServer(service, config) as server, stub(server.port) as remote:

        def ask(n: int) -> tuple[int, Any]:
            try:
                return n, remote.Ground(ground(pictures[n], robot=f"r{n}"))
            except grpc.RpcError as error:
                return n, error

        with ThreadPoolExecutor(8) as pool, held(service):
            answers = [pool.submit(ask, n) for n in range(8)]
            # One is in work, three wait, four are refused while nothing moves.
            until(lambda: sum(a.done() for a in answers) == 4)
            for n, error in (a.result() for a in answers if a.done()):
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, n
                pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
                assert int(pushback) >= 1
            with monkeypatch.context() as patched:
                patched.setattr(codec, "decode_image", lambda *_: pytest.fail("unpacked"))
                error = refusal(lambda: remote.Ground(ground(frame, robot="late")))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        given = [a.result() for a in answers]
        answered = [(n, r) for n, r in given if isinstance(r, pb.GroundReply)]
        assert len(answered) == 4
        for n, reply in answered:
            assert torch.equal(codec.decode_embeddings(reply.meanings[0].embeddings), expected[n])
        count = service.metrics.registry.get_sample_value
        assert count("sa2va_requests_total", {"kind": "ground", "code": "OK"}) == 4
        assert count("sa2va_requests_total", {"kind": "ground", "code": "RESOURCE_EXHAUSTED"}) == 5


def test_deadlines_and_cancelled_calls_cost_the_model_nothing(
    server: BackgroundServer, service: GroundingServer, frame: np.ndarray
) -> None:
    with stub(server.port) as remote:
        with held(service):
            first = remote.Ground.future(ground(frame, robot="busy"))
            until(lambda: bool(service.engine._running))
            late = remote.Ground.future(ground(frame, robot="late"), timeout=0.1)
            left = remote.Ground.future(ground(frame, robot="left"))
            until(lambda: service.queue_length == 2)
            left.cancel()
            assert refusal(late.result).code() is grpc.StatusCode.DEADLINE_EXCEEDED
            time.sleep(0.1)  # until the server has heard of it
        assert first.result().meanings[0].found
        assert remote.Ground(ground(frame)).meanings[0].found
    assert service.engine.counts == {"forwards": 2, "answered": 2, "cancelled": 2}


def test_a_question_is_answered_word_by_word(
    server: BackgroundServer, nano: Sa2VA, frame: np.ndarray
) -> None:
    request = pb.AskRequest(question="What is it?", header=ground(frame).header)
    request.keyframes.extend(ground(frame).keyframes)
    with stub(server.port) as remote:
        *words, last = remote.Ask(request)
    mine = nano.ask([frame], "What is it?")
    assert "".join(reply.delta for reply in words) == last.whole.text == mine.text
    assert last.whole.written == mine.turn.answer
    assert torch.equal(
        codec.decode_embeddings(last.whole.embeddings), mine.embeddings.half().float()
    )


def test_health_says_when_it_serves(server: BackgroundServer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "sa2va.grounding.v1.Grounding"):
            reply = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_ending_finishes_what_was_begun_and_takes_nothing_more(
    nano: Sa2VA, frame: np.ndarray
) -> None:
    service = GroundingServer(nano)
    server = BackgroundServer(service, ServerConfig(port=0, metrics_port=-1, grace=10))
    with stub(server.start()) as remote:
        with held(service):
            open_calls = [remote.Ground.future(ground(frame, robot=f"r{n}")) for n in range(3)]
            until(lambda: service.queue_length == 2)
            ending = threading.Thread(target=server.end)
            ending.start()
            until(lambda: service.draining)
            error = refusal(lambda: remote.Ground(ground(frame)))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert all(call.result(5).meanings[0].found for call in open_calls)
        ending.join(5)
        assert not ending.is_alive()


def test_tokens_keep_strangers_out(nano: Sa2VA, frame: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text("# robots\nfirst-token-0123456789\nsecond-token-0123456789  # lab\n")
    service = GroundingServer(nano)
    config = ServerConfig(port=0, metrics_port=-1, grace=0, tokens=str(file))
    with BackgroundServer(service, config) as server, stub(server.port) as remote:
        for given in (
            (),
            (("authorization", "Bearer wrong"),),
            (("authorization", "first-token-0123456789"),),
        ):
            error = refusal(
                lambda given=given: remote.Describe(pb.DescribeRequest(), metadata=given)
            )  # type: ignore[misc]
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        known = (("authorization", "Bearer second-token-0123456789"),)
        assert remote.Ground(ground(frame), metadata=known).meanings[0].found
    service.engine.close()


def test_a_server_that_others_reach_needs_tls_and_tokens() -> None:
    with pytest.raises(InputError, match=r"expected TLS .* and tokens"):
        ServerConfig(host="0.0.0.0")
    with pytest.raises(InputError, match="and tokens"):
        ServerConfig(host="robot.lan", certificate="a.pem", key="b.pem")
    with pytest.raises(InputError, match="one of them"):
        ServerConfig(certificate="a.pem")
    for host in ("127.0.0.1", "::1", "localhost"):
        ServerConfig(host=host)


def test_adapters_are_read_once_and_each_answers_as_alone(
    frame: np.ndarray, tmp_path: Path
) -> None:
    base = fingerprint(nano_model())
    expected = {"": nano_model().ground([frame], "the mug").embeddings}
    for n, name in enumerate(("kitchen", "garden")):
        model = nano_model()
        with torch.no_grad():
            model.text_hidden_fcs[2].bias.add_(n + 1.0)
        parts = ["text_hidden_fcs.2.bias"]
        if n:
            state = model.state_dict()
            parts += [k for k in state if "sam_mask_decoder.iou_prediction_head" in k][:1]
            with torch.no_grad():
                state[parts[-1]].add_(0.5)
        save_adapter(model, tmp_path / name, base=base, parts=parts)
        expected[name] = model.ground([frame], "the mug").embeddings
    service = GroundingServer(
        nano_model(), adapters=[str(tmp_path / n) for n in ("kitchen", "garden")]
    )
    assert not service.describe().plurals
    decoders = service.describe().decoders
    assert decoders["kitchen"] == decoders[""] != decoders["garden"]
    config = ServerConfig(port=0, metrics_port=-1, grace=0)
    with BackgroundServer(service, config) as server, stub(server.port) as remote:
        for name in ("garden", "kitchen", "", "garden", "kitchen"):
            (tmp_path / "garden" / "parts.safetensors").unlink(missing_ok=True)
            reply = remote.Ground(ground(frame, adapter=name, decoder=decoders[name]))
            given = codec.decode_embeddings(reply.meanings[0].embeddings)
            assert torch.equal(given, expected[name].half().float()), name
    service.engine.close()


def test_lora_adapters_lie_beside_each_other(frame: np.ndarray, tmp_path: Path) -> None:
    from peft import LoraConfig

    from sa2va_model.checkpoints.adapters import load_adapter, wrap_language_model
    from sa2va_serve.server.adapter_set import AdapterSet

    base = fingerprint(nano_model())
    for seed, name in enumerate(("kitchen", "garden")):
        model = nano_model()
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        peft = wrap_language_model(model.mllm.language_model, config)
        save_adapter(model, tmp_path / name, base=base, parts=[], peft=peft)
    expected = {"": nano_model().ground([frame], "the mug").embeddings}
    for name in ("kitchen", "garden"):
        model = nano_model()
        load_adapter(model, tmp_path / name)
        expected[name] = model.ground([frame], "the mug").embeddings
    assert not torch.equal(expected["kitchen"], expected["garden"])
    both = nano_model()
    adapters = AdapterSet(both, [tmp_path / "kitchen"])
    adapters.add(tmp_path / "garden")
    for name in ("garden", "", "kitchen", "garden"):
        adapters.use(name)
        assert torch.equal(both.ground([frame], "the mug").embeddings, expected[name]), name


def test_a_model_that_fails_costs_one_request(
    server: BackgroundServer, service: GroundingServer, frame: np.ndarray
) -> None:
    def fail(*_: Any) -> None:
        hook.remove()
        raise RuntimeError("out of memory")

    hook = service._model.mllm.vision_model.register_forward_pre_hook(fail)
    with stub(server.port) as remote:
        error = refusal(lambda: remote.Ground(ground(frame)))
        assert (error.code(), "out of memory" in error.details()) == (grpc.StatusCode.ABORTED, True)
        assert remote.Ground(ground(frame)).meanings[0].found


def test_a_robot_s_request_that_fails_among_others_costs_only_itself(
    nano: Sa2VA, frame: np.ndarray
) -> None:
    service = GroundingServer(nano, ServerLimits(together=4))
    config = ServerConfig(port=0, metrics_port=-1, grace=5, limits=service.limits)
    ground_together = nano.ground_together

    def fail(asked: Any) -> Any:
        if any("poison" in words for _, _, words in asked):
            raise RuntimeError("out of memory")
        return ground_together(asked)

    with (
        BackgroundServer(service, config) as server,
        stub(server.port) as remote,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setattr(nano, "ground_together", fail)
        with held(service):
            calls = [remote.Ground.future(ground(frame, robot="busy"))]
            until(lambda: bool(service.engine._running))
            for robot, word in (("a", "the mug"), ("b", "poison"), ("c", "the can")):
                calls.append(remote.Ground.future(ground(frame, robot=robot, sentences=(word,))))
            until(lambda: service.queue_length == 3)
        ended = [call.exception() for call in calls]
    assert [error and error.code() for error in ended] == [
        None,
        None,
        grpc.StatusCode.ABORTED,
        None,
    ]
    assert service.engine.counts["failed"] == 1
