"""Every reader of the matrix is held to the bound, with marks and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from continuous_integration.benchmarks import __main__
from continuous_integration.benchmarks.__main__ import main
from continuous_integration.benchmarks.matrix import HEAD, Observation, observe, row
from continuous_integration.benchmarks.readers import READERS, reader
from continuous_integration.benchmarks.workloads import Unavailable

pytestmark = [
    # What libraries and formats say about each other is not ours to mend
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("files_closed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


def seen(name: str, folder: Path, policy: str, marks: bool = True) -> Observation:
    try:
        return observe(READERS[name], folder, policy, marks)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("marks", [True, False], ids=["marks", "no-marks"])
@pytest.mark.parametrize("name", READERS)
def test_reader_is_bounded(name: str, marks: bool, folder: Path) -> None:
    """At no transition are more chunks in memory than twice the slots."""
    found = seen(name, folder, "producers", marks)
    assert found.tasks == READERS[name].chunks, found
    assert found.tasks > 3 * found.slots, "too few chunks to tell"
    assert found.bounded, found
    assert found.rootish, found


@pytest.mark.parametrize(
    ("name", "policy", "marks"),
    [
        ("from-zarr-3", "heuristic", True),
        ("from-zarr-3", "marked", False),
        ("open-mfdataset-netcdf4", "heuristic", True),
        ("open-mfdataset-netcdf4", "marked", False),
        ("from-delayed", "heuristic", True),
        ("from-delayed", "marked", True),
        ("stackstac", "heuristic", True),
        ("stackstac", "marked", True),
        ("odc-stac", "marked", False),
        ("delayed-handles", "marked", True),
    ],
)
def test_other_policies_overrun(
    name: str, policy: str, marks: bool, folder: Path
) -> None:
    """The count of files misleads, and so do marks where there are none."""
    found = seen(name, folder, policy, marks)
    assert not found.rootish, found
    assert not found.bounded, found


def test_registry() -> None:
    for name, one in READERS.items():
        assert one.name == name
        assert one.title.endswith("."), name
    with pytest.raises(ValueError, match="two readers with the name 'iris'"):
        reader("iris", "t")(lambda client, folder: [])


def test_row() -> None:
    observations = [
        Observation(
            "iris", policy, True, ("t",), 6, 48, ("few", "beside"), True, peak, 6
        )
        for policy, peak in (("heuristic", 48), ("marked", 13), ("producers", 12))
    ]
    cells = row(observations)
    assert len(cells) == len(HEAD)
    assert cells[2] == "48 t / 6"
    assert cells[3:] == [
        "**48** few, beside",
        "**13** few, beside",
        "12 few, beside",
    ]


def test_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {}
    monkeypatch.setattr(
        __main__, "write_figures", lambda name, **fields: written.update({name: fields})
    )
    output = tmp_path / "table.csv"
    arguments = ["readers", "delayed", "--folder", str(folder), "--output", str(output)]
    arguments += ["--figures", "read"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    lines = output.read_text().splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("delayed,with,48 load / 1,")
    assert [",".join(row) for row in written["read"]["rows"]] == lines[1:]
    result = CliRunner().invoke(main, ["readers", "nothing"])
    assert result.exit_code == 2
    assert "no reader nothing" in result.output
