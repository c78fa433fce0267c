from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from esac.results.video import record
from gymnasium import spaces
from sextet_common.errors import InputError

image = pytest.importorskip("PIL.Image")
STEPS = 9


@pytest.fixture(autouse=True)
def own_choice_of_gl(monkeypatch: pytest.MonkeyPatch) -> None:
    if "MUJOCO_GL" not in os.environ:  # what a film sets is undone after its test
        monkeypatch.setenv("MUJOCO_GL", "")
        monkeypatch.delenv("MUJOCO_GL")


class Dot(gymnasium.Env[Any, Any]):
    """A white dot that an action pushes to the right, on black."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, kind: str = "") -> None:
        self.observation_space = spaces.Box(-1.0, 100.0, (1,), dtype=np.float32)
        self.action_space = spaces.Box(0.0, 4.0, (1,), dtype=np.float32)
        self.render_mode, self.kind = render_mode, kind

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.number = 0.0, 0
        return np.array([self.at], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.at, self.number = self.at + float(action[0]), self.number + 1
        return np.array([self.at], np.float32), 0.0, False, self.number >= STEPS, {}

    def render(self) -> Any:
        if self.kind == "nothing":
            return None
        if self.kind == "no display":
            raise ImportError('Library "OSMesa" was not found.')
        frame = np.zeros((31, 65, 3), np.uint8)
        column = round(self.at)
        frame[10:20, column : column + 8] = 255
        return frame


def push(observation: np.ndarray) -> np.ndarray:
    return np.array([4.0], np.float32)


def pictures(path: Path) -> list[np.ndarray]:
    with image.open(path) as film:
        found = []
        for number in range(film.n_frames):
            film.seek(number)
            found.append(np.asarray(film.convert("RGB")))
        assert film.info["loop"] == 0
    return found


def test_a_film_can_be_cut(tmp_path: Path) -> None:
    assert len(pictures(record(Dot, push, tmp_path / "film.gif", steps=3, episodes=2))) == 2 * (1 + 3)
    with pytest.raises(InputError, match="steps must be"):
        record(Dot, push, tmp_path / "film.gif", steps=0)


def test_a_gif_shows_what_happened_frame_by_frame(tmp_path: Path) -> None:
    path = record(Dot, push, tmp_path / "film.gif")
    found = pictures(path)
    assert len(found) == 1 + STEPS
    for number, picture in enumerate(found):
        assert picture.shape == (31, 65, 3)
        columns = np.flatnonzero(picture[15, :, 0] > 128)
        assert columns.tolist() == list(range(4 * number, 4 * number + 8))
    with image.open(path) as film:
        film.seek(1)
        assert film.info["duration"] == 50


def test_episodes_follow_one_another_and_a_width_scales(tmp_path: Path) -> None:
    found = pictures(record(Dot, push, tmp_path / "film.gif", episodes=2, width=130))
    assert len(found) == 2 * (1 + STEPS) and found[0].shape == (62, 130, 3)
    np.testing.assert_array_equal(found[0], found[1 + STEPS])


def test_a_fast_gif_leaves_frames_out_and_keeps_its_time(tmp_path: Path) -> None:
    path = record(Dot, push, tmp_path / "film.gif", fps=100)
    assert len(pictures(path)) == 5
    with image.open(path) as film:
        assert film.info["duration"] == 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio_ffmpeg's reader leaves pipes
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_mp4_has_every_frame_at_even_numbers_of_pixels(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = record(Dot, push, tmp_path / "film.mp4")
    reader = ffmpeg.read_frames(str(path))
    meta = next(reader)
    frames = [np.frombuffer(frame, np.uint8).reshape(30, 64, 3) for frame in reader]
    assert meta["size"] == (64, 30) and meta["fps"] == 20 and len(frames) == 1 + STEPS
    for number, frame in enumerate(frames):
        middle = float(np.flatnonzero(frame[15, :, 0] > 128).mean())
        assert middle == pytest.approx(4 * number + 3.5, abs=1.0)  # compression blurs the edges


def test_a_policy_that_fails_midway_leaves_the_old_film(tmp_path: Path) -> None:
    path = record(Dot, push, tmp_path / "film.gif")
    before = path.read_bytes()

    def faulty(observation: np.ndarray) -> np.ndarray:
        if observation[0] > 10:
            raise RuntimeError("no idea")
        return push(observation)

    with pytest.raises(RuntimeError, match="no idea"):
        record(Dot, faulty, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("env", "name", "message"),
    [
        (Dot, "film.webm", "ends in '.webm'; expected: .mp4 or .gif"),
        (lambda: Dot(), "film.gif", "renders no frames: render_mode is None; expected: .*rgb_array"),
        (lambda: Dot("rgb_array", "nothing"), "film.gif", "renders NoneType"),
        (lambda: Dot("rgb_array", "no display"), "film.gif", "OSMesa.*; expected: a display, .*MUJOCO_GL=egl"),
    ],
)
def test_what_cannot_be_filmed_is_one_clear_error(env: Any, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        record(env, push, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    for words in ({"episodes": 0}, {"fps": 0.0}, {"width": 1}):
        with pytest.raises(InputError, match=r"must be a (whole )?number >"):
            record(Dot, push, tmp_path / "film.gif", **words)  # type: ignore[arg-type]


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"imageio_ffmpeg is not installed; expected: pip install 'esac\[video\]'"):
        record(Dot, push, tmp_path / "film.mp4")


MUJOCO = """
import importlib.util
import sys
import numpy as np
from esac.results.video import record

try:
    record("InvertedPendulum-v5", lambda seen: np.zeros(1), sys.argv[1], options={"max_episode_steps": 8}, width=120)
except Exception as error:
    print(error)
    sys.exit(77)
if importlib.util.find_spec("triton"):
    import triton  # as torch's first optimizer does: a crash where Mesa's LLVM was loaded before
"""


def test_mujoco_is_filmed_without_a_display(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"  # in a process of its own: what MuJoCo draws with is chosen once
    ended = subprocess.run(
        [sys.executable, "-c", MUJOCO, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    if ended.returncode == 77 and "expected: a display" in ended.stdout:
        pytest.skip(ended.stdout.strip())
    assert ended.returncode == 0, ended.stderr
    found = pictures(path)
    assert found[0].shape == (120, 120, 3) and 2 < len(found) <= 9
    assert found[0].std() > 10 and (found[0] != found[-1]).any()
