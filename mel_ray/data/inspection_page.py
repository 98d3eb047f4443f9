"""An inspection as a small self-contained page with histograms."""

import html
from collections import Counter
from collections.abc import Sequence

from mel_ray.data.inspection import Inspection, text

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:24px auto;padding:0 16px;color:#1c2430}"
    "td{padding:1px 10px 1px 0;white-space:nowrap}i{display:inline-block;height:12px;background:#1f5fbf}"
    "pre{white-space:pre-wrap;background:#f6f8fa;padding:12px;border-radius:6px}"
)


def page(found: Inspection) -> str:
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>mel_ray data</title><style>{_STYLE}</style>"
        f"<h1>Dataset</h1><pre>{html.escape(text(found))}</pre>"
        + _bars(f"Prompt length in {found.lengths.unit}", _histogram(found.lengths.values))
        + _bars("Answer length in characters", _histogram([len(one.truth.answer) for one in found.questions]))
        + _bars("Answer kinds", found.kinds.most_common())
        + "</html>"
    )


def _bars(title: str, counts: Sequence[tuple[str, int]]) -> str:
    top = max((count for _, count in counts), default=1) or 1
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td><i style='width:{300 * count / top:.0f}px'></i> {count}</td></tr>"
        for name, count in counts
    )
    return f"<h2>{html.escape(title)}</h2><table>{rows}</table>"


def _histogram(values: Sequence[int], bins: int = 20) -> list[tuple[str, int]]:
    if not values:
        return []
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // bins))
    counts = Counter((value - low) // width for value in values)
    return [(f"{low + n * width}-{low + (n + 1) * width - 1}", counts[n]) for n in range(max(counts) + 1)]
