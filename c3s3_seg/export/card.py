"""Write the cards of exports: content, input, and parity with torch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from c3s3_seg.bundle import Task
from c3s3_seg.export.metadata import input_spec, output_spec, postprocess
from c3s3_seg.export.parity import Parity
from c3s3_seg.export.spec import Built, GraphSpec, Members

HEADING = "## Parity with torch"


def in_bundle_card(card: str, parities: Mapping[str, Parity]) -> str:
    """Return a bundle's card with the parity of its graphs as the last section, in place of an earlier one.

    Parameters
    ----------
    card
        Text of the card in Markdown. Sections that somebody wrote after the parity section stay.
    parities
        File name of each graph -> its parity.
    """
    earlier = rf"^{re.escape(HEADING)}\n.*?(?=^##? |\Z)"
    others = re.sub(earlier, "", card, flags=re.MULTILINE | re.DOTALL).rstrip()
    return f"{others}\n\n{_section(parities)}"


def stand_alone_card(task: Task, members: Members, spec: GraphSpec, built: Built, parity: Parity) -> str:
    """Return the card of an export that does not need this package."""
    file = built.network
    nets = " and ".join(f"{n.architecture} with {n.filters} filters" for _, n in members)
    batch = built.batch or (
        "any number of patches" if spec.batch is None else f"exactly {spec.batch} patch(es)"
    )
    return f"""# {task.name}

Research use only. Not a medical device.

`{file}`: {nets}; {spec.precision}; {batch} in one call.

- **Input**: {input_spec(task)}
- **Output**: {output_spec(task, len(members))}
- **Afterwards**: {postprocess(task)}

{_section({file: parity})}"""


def _section(parities: Mapping[str, Parity]) -> str:
    """Return the parity section with a table, one row for each file."""
    rows = "".join(_row(name, parity) for name, parity in parities.items())
    return f"""{HEADING}

The mask of the exported graph is compared with that of torch, on whole scans on their own grid. The table
shows the worst scan and label; NSD has a tolerance of half a voxel.

| file | runtime | patches | largest difference | scans | flipped voxels | Dice | 95HD (mm) | ASD (mm) | NSD |
|---|---|---|---|---|---|---|---|---|---|
{rows}"""


def _row(name: str, parity: Parity) -> str:
    worst = parity.worst
    return (
        f"| {name} | {parity.runtime} | {parity.patches} | {parity.difference:.1e} | {len(parity.scans)}"
        f" | {worst.flipped} of {worst.voxels} | {worst.dice:.5f} | {worst.hd95_mm:.3f}"
        f" | {worst.asd_mm:.5f} | {worst.nsd:.5f} |\n"
    )
