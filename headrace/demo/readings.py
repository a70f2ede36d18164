"""What a device says of a part: readings of its sensors, and a model's prediction."""

from dataclasses import dataclass
from random import Random
from typing import Any

from headrace.demo.line import LinePart

MODEL = "surface-check-2.1"


@dataclass(frozen=True, slots=True)
class Readings:
    """The three parts of an LDO."""

    sensor_data: dict[str, Any]
    context: dict[str, Any]
    prediction: dict[str, Any]


def readings_of(part: LinePart, random: Random) -> Readings:
    """Return plausible readings of a part; temperature in °C, vibration in mm/s, force in N."""
    warm = 6.0 if part.scratched else 0.0
    confidence = random.uniform(0.81, 0.995)
    return Readings(
        sensor_data={
            "temperature_c": round(random.gauss(41.5 + warm, 0.8), 2),
            "vibration_mm_s": round(abs(random.gauss(2.8 if part.scratched else 1.1, 0.3)), 3),
            "force_n": [round(random.gauss(118.0, 2.5), 1) for _ in range(16)],
        },
        context={"component": part.code, "recipe": "R-17", "shift": "early"},
        prediction={
            "model": MODEL,
            "label": "scratched" if part.scratched else "good",
            "confidence": round(confidence, 4),
        },
    )
