"""What a media item may cost before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

# Pillow warns above this on its own, process-wide; a limit beyond it would not hold.
MOST_IMAGE_PIXELS = 89_478_485


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """Checked against headers, before anything is decoded.

    Attributes:
        max_bytes: of one item, all its frames together.
        max_pixels: of one image or video frame, as stored.
        max_seconds: that a video plays.
        max_decoded_pixels: of a video: all frames up to the last one that is looked at. A frame costs decoding time
            whether or not it is sampled.
        max_packets: in a video file, of all its streams. All of them are read to count the frames.
    """

    max_bytes: int = 256 << 20
    max_pixels: int = 64 << 20
    max_seconds: float = 3600.0
    max_decoded_pixels: int = 1 << 37
    max_packets: int = 500_000

    def __post_init__(self) -> None:
        if self.max_pixels > MOST_IMAGE_PIXELS:
            raise ValueError(f"max_pixels can be {MOST_IMAGE_PIXELS} at most, got {self.max_pixels}")
        for name in ("max_bytes", "max_pixels", "max_seconds", "max_decoded_pixels", "max_packets"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
