"""Films of policies: episodes of an environment that draws itself, as .mp4 or .gif (extra video)."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import UInt8
from sextet_common import files
from sextet_common.errors import InputError, require

from esac import rollout

Frame = UInt8[np.ndarray, "height width 3"]
_GIF_FPS = 50  # viewers show shorter delays than 20 ms as 100 ms


def record(
    env: str | Callable[[], gymnasium.Env[Any, Any]],
    policy: Callable[[np.ndarray], np.ndarray],
    path: str | os.PathLike[str],
    *,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    episodes: int = 1,
    fps: float | None = None,
    width: int | None = None,
) -> Path:
    """Film episodes of a policy.

    On Linux without a display, MuJoCo is told to draw by EGL, unless the variable MUJOCO_GL says otherwise.

    Parameters
    ----------
    env
        The environment's name, or a function that makes one with ``render_mode="rgb_array"``; a function that has a
        parameter of that name is given it.
    policy
        From an observation, shape (observations,), to an action, shape (actions,): a `NumpyPolicy`, for one.
    path
        The file, .mp4 or .gif; whole, or not there at all.
    options
        For gymnasium's make.
    seed
        Of the first episode's reset; each other one's is one more.
    episodes
        How many, one after another.
    fps
        Frames a second; the environment's own speed where not given. A .gif of more than 50 leaves frames out.
    width
        Pixels; as the environment draws where not given.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        Where the suffix is another, the environment draws no frames or this machine cannot draw them, a number is out
        of range, or the extra is missing.

    Examples
    --------
    >>> record("Pendulum-v1", lambda observation: np.zeros(1), "pendulum.avi")
    Traceback (most recent call last):
    sextet_common.errors.InputError: pendulum.avi ends in '.avi'; expected: .mp4 or .gif
    """
    target = Path(path)
    if target.suffix.lower() not in (".mp4", ".gif"):
        raise InputError(f"{target} ends in {target.suffix!r}", ".mp4 or .gif")
    if episodes < 1 or (width is not None and width < 2) or (fps is not None and not 0 < fps < math.inf):
        raise InputError(f"{episodes} episodes, fps {fps}, width {width}", "at least 1, more than 0, at least 2")
    image = require("PIL.Image", package="esac", extra="video")
    write = _write_gif
    if target.suffix.lower() == ".mp4":
        require("imageio_ffmpeg", package="esac", extra="video")
        write = _write_mp4
    headless = sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if headless and "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl"  # MuJoCo's own choice, GLFW, wants a display
    rollout.before_drawing()
    drawing = _drawing(env, options)
    try:
        speed = float(fps or _fps(drawing))
        frames = (_resized(image, frame, width) for frame in _frames(drawing, policy, seed, episodes))
        with files.replacing(target) as temporary:
            write(temporary, frames, speed)
    finally:
        drawing.close()
    return target


def _drawing(env: str | Callable[..., gymnasium.Env[Any, Any]], options: dict[str, Any] | None) -> Any:
    """Make an environment that draws into arrays."""
    mode = {"render_mode": "rgb_array"}
    remedy = 'an environment that can be made with render_mode="rgb_array"'
    try:
        if isinstance(env, str):
            made = rollout.make(env, {**(options or {}), **mode})
        elif "render_mode" in inspect.signature(env).parameters:
            made = rollout.make(lambda: env(**mode))
        else:
            made = rollout.make(env)
    except InputError as error:
        if "render_mode" in error.given:
            raise InputError(f"the environment {env!r} draws no frames", remedy) from error
        raise
    if made.render_mode != "rgb_array":
        made.close()
        raise InputError(f"the environment {env!r} draws no frames: its render_mode is {made.render_mode}", remedy)
    return made


def _fps(env: gymnasium.Env[Any, Any]) -> float:
    """Return how many steps an environment takes in a second of its own time."""
    if type(env.unwrapped).__module__.startswith("shimmy.dm_control"):
        return float(1 / env.unwrapped.dt)  # type: ignore[attr-defined]  # shimmy's render_fps is the step's milliseconds
    return float(env.metadata.get("render_fps") or 30)


def _frames(
    env: gymnasium.Env[Any, Any], policy: Callable[[np.ndarray], np.ndarray], seed: int, episodes: int
) -> Iterator[Frame]:
    """Draw what a policy does: the start, and what follows each step."""
    most = rollout.horizon(env)
    for number in range(episodes):
        observation, _ = env.reset(seed=seed + number)
        yield _drawn(env)
        for _ in range(most):
            observation, _, terminated, truncated, _ = env.step(policy(observation))
            yield _drawn(env)
            if terminated or truncated:
                break


def _drawn(env: gymnasium.Env[Any, Any]) -> Frame:
    try:
        found = env.render()
    except Exception as error:  # GL's libraries have one each for a machine that cannot draw
        first = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"frames cannot be drawn here: {first}", rollout.DISPLAY) from error
    frame = np.asarray(found)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InputError(
            f"the environment draws {type(found).__name__} of shape {frame.shape}", "frames (height, width, 3) of uint8"
        )
    return frame


def _resized(image: Any, frame: Frame, width: int | None) -> Frame:
    height, now = frame.shape[:2]
    if width is None or width == now:
        return frame
    return np.asarray(image.fromarray(frame).resize((width, max(2, round(height * width / now)))))


def _write_gif(path: Path, frames: Iterable[Frame], fps: float) -> None:
    image = require("PIL.Image", package="esac", extra="video")
    every = math.ceil(fps / _GIF_FPS)
    pictures = (image.fromarray(frame) for number, frame in enumerate(frames) if number % every == 0)
    first = next(pictures)
    first.save(path, format="GIF", save_all=True, append_images=pictures, duration=1000 * every / fps, loop=0)


def _write_mp4(path: Path, frames: Iterable[Frame], fps: float) -> None:
    ffmpeg = require("imageio_ffmpeg", package="esac", extra="video")
    iterator = iter(frames)
    first = next(iterator)
    height, width = (n - n % 2 for n in first.shape[:2])  # players want even numbers
    writer = ffmpeg.write_frames(
        str(path), (width, height), fps=fps, quality=7, macro_block_size=2, output_params=["-f", "mp4"]
    )
    writer.send(None)
    try:
        for frame in chain([first], iterator):
            writer.send(np.ascontiguousarray(frame[:height, :width]))
    finally:
        writer.close()
    if not path.exists() or not path.stat().st_size:
        raise InputError("ffmpeg wrote no film: what it said is above", "an ffmpeg with H.264, or a .gif file")
