"""Files that a job's configuration names: a changed one makes another job."""

from pathlib import Path

from dgn.cli.changes import stamps


def test_files_that_texts_name(tmp_path: Path) -> None:
    files = ("along.safetensors", "units.txt", "sae/ae.pt", "sae/config.json", "lens/w.safetensors", "lens/cfg.json")
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def named(text: str) -> set[str]:
        return {str(Path(file).relative_to(tmp_path)) for file in stamps([text])}

    assert named(f"blocks.4:{tmp_path}/along.safetensors") == {"along.safetensors"}
    assert named(f"0.5*blocks.4:{tmp_path}/along.safetensors^2@cls + 0.5*candle") == {"along.safetensors"}
    assert named(f"@{tmp_path}/units.txt") == {"units.txt"}
    assert named(f"{tmp_path}/along.safetensors@3") == {"along.safetensors"}
    assert named(f"{tmp_path}/sae") == {"sae/ae.pt", "sae/config.json"}
    assert named(f"{tmp_path}/lens/w.safetensors") == {"lens/w.safetensors", "lens/cfg.json"}
    assert not named("goldfish") and not named("blocks.4:17@3,5")
