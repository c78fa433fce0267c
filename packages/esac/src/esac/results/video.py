"""Videos of policies as .mp4 or .gif (extra video)."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
from jaxtyping import UInt8
from sextet_common import checks, files
from sextet_common.errors import InputError, require

from esac.play import environment
from esac.play.environment import EnvSource

Frame = UInt8[np.ndarray, "height width 3"]
_GIF_FPS = 50  # viewers show shorter delays than 20 ms as 100 ms


def record(
    env: EnvSource,
    policy: Callable[[np.ndarray], np.ndarray],
    path: str | os.PathLike[str],
    *,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    episodes: int = 1,
    fps: float | None = None,
    width: int | None = None,
    steps: int | None = None,
) -> Path:
    """Record episodes of a policy, one after another, in a file that is written atomically.

    On Linux without a display, MuJoCo renders with EGL unless the variable MUJOCO_GL says otherwise.

    Parameters
    ----------
    env
        A name for ``gymnasium.make``, or a function that makes an environment with ``render_mode="rgb_array"``; the
        mode is passed if the function has a parameter of that name.
    policy
        From an observation, shape (observations,), to an action, shape (actions,), such as a `NumpyPolicy`.
    seed
        Seed of the first reset; it increases by one per episode.
    fps
        Frames per second; by default the environment's own speed. A .gif of more than 50 drops frames.
    width
        Width in pixels; by default that of the environment's frames.
    steps
        Steps of an episode; by default all.

    Examples
    --------
    >>> record("Pendulum-v1", lambda observation: np.zeros(1), "pendulum.avi")
    Traceback (most recent call last):
    sextet_common.errors.InputError: pendulum.avi ends in '.avi'; expected: .mp4 or .gif
    """
    target = Path(path)
    if target.suffix.lower() not in (".mp4", ".gif"):
        raise InputError(f"{target} ends in {target.suffix!r}", ".mp4 or .gif")
    checks.check("episodes", episodes, checks.Count)
    checks.check("width", width, Annotated[int, checks.Bounds(2)] | None)
    checks.check("steps", steps, checks.Count | None)
    checks.check("fps", fps, checks.Positive | None)
    image = require("PIL.Image", package="esac", extra="video")
    write = _write_gif
    if target.suffix.lower() == ".mp4":
        require("imageio_ffmpeg", package="esac", extra="video")
        write = _write_mp4
    headless = sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if headless and "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl"  # MuJoCo's default, GLFW, needs a display
    environment.import_triton_before_mesa()
    rendering = _make_rendering(env, options)
    try:
        speed = float(fps or _fps(rendering))
        frames = (_resize(image, frame, width) for frame in _frames(rendering, policy, seed, episodes, steps))
        with files.replacing(target) as temporary:
            write(temporary, frames, speed)
    finally:
        rendering.close()
    return target


def _make_rendering(env: str | Callable[..., gymnasium.Env[Any, Any]], options: dict[str, Any] | None) -> Any:
    """Make an environment that renders into arrays."""
    mode = {"render_mode": "rgb_array"}
    remedy = 'an environment that can be made with render_mode="rgb_array"'
    try:
        if isinstance(env, str):
            instance = environment.make(env, {**(options or {}), **mode})
        elif "render_mode" in inspect.signature(env).parameters:
            instance = environment.make(lambda: env(**mode))
        else:
            instance = environment.make(env)
    except InputError as error:
        if "render_mode" in error.given:
            raise InputError(f"the environment {env!r} renders no frames", remedy) from error
        raise
    if instance.render_mode != "rgb_array":
        instance.close()
        raise InputError(f"the environment {env!r} renders no frames: render_mode is {instance.render_mode}", remedy)
    return instance


def _fps(env: gymnasium.Env[Any, Any]) -> float:
    """Return the steps per second of simulated time."""
    if type(env.unwrapped).__module__.startswith("shimmy.dm_control"):
        return float(1 / env.unwrapped.dt)  # type: ignore[attr-defined]  # shimmy's render_fps holds milliseconds
    return float(env.metadata.get("render_fps") or 30)


def _frames(
    env: gymnasium.Env[Any, Any], policy: Callable[[np.ndarray], np.ndarray], seed: int, episodes: int,
    steps: int | None,
) -> Iterator[Frame]:  # fmt: skip
    """Render the start of every episode and each of its steps."""
    max_steps = steps or environment.horizon(env)
    for number in range(episodes):
        observation, _ = env.reset(seed=seed + number)
        yield _render(env)
        for _ in range(max_steps):
            observation, _, terminated, truncated, _ = env.step(policy(observation))
            yield _render(env)
            if terminated or truncated:
                break


def _render(env: gymnasium.Env[Any, Any]) -> Frame:
    try:
        rendered = env.render()
    except Exception as error:  # each GL library raises its own
        first = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"frames cannot be rendered here: {first}", environment.DISPLAY) from error
    frame = np.asarray(rendered)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InputError(
            f"the environment renders {type(rendered).__name__} of shape {frame.shape}",
            "frames (height, width, 3) of uint8",
        )
    return frame


def _resize(image: Any, frame: Frame, width: int | None) -> Frame:
    height, current = frame.shape[:2]
    if width is None or width == current:
        return frame
    return np.asarray(image.fromarray(frame).resize((width, max(2, round(height * width / current)))))


def _write_gif(path: Path, frames: Iterable[Frame], fps: float) -> None:
    image = require("PIL.Image", package="esac", extra="video")
    every = math.ceil(fps / _GIF_FPS)
    kept = (image.fromarray(frame) for number, frame in enumerate(frames) if number % every == 0)
    pictures = (picture.quantize(dither=image.Dither.NONE) for picture in kept)  # dots of dithering triple the file
    first = next(pictures)
    first.save(path, format="GIF", save_all=True, append_images=pictures, duration=1000 * every / fps, loop=0)


def _write_mp4(path: Path, frames: Iterable[Frame], fps: float) -> None:
    ffmpeg = require("imageio_ffmpeg", package="esac", extra="video")
    iterator = iter(frames)
    first = next(iterator)
    height, width = (n - n % 2 for n in first.shape[:2])  # players need even numbers
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
        raise InputError("ffmpeg wrote no video; its message is above", "an ffmpeg with H.264, or a .gif file")
