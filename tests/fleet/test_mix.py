"""The frozen mix is read as it is; a wrong one is refused by the name of the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwcp.fleet.mix import DEFAULT_MIX, MixError, load_mix


def test_the_frozen_mix_is_whole() -> None:
    mix = load_mix()
    assert len(mix.digest) == 16
    assert [mix.versions_of(size) for size in (1, 1_048_575, 1_048_576, 25_165_823, 25_165_824)] == [10, 10, 6, 6, 3]


def test_any_change_is_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "mix.toml"
    path.write_text(DEFAULT_MIX.read_text() + "\n")
    assert load_mix(path).digest != load_mix().digest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "[types.vm_memory]\nshare = 0.16",
            "[types.vm_memory]\nshare = 0.26",
            r"shares of types .* sum to 1\.1, not to 1",
        ),
        ("[links.dc]\nshare = 0.35", "[links.dc]\nshare = 0.3", r"shares of links .* sum to 0\.95, not to 1"),
        ("[types.media]", "[types.films]", "types names films"),
        ("[links.metro]", "[links.moon]", r"links\.metro is missing"),
        ("[links.wan]", "[links.moon]\nshare = 0.0\n[links.wan]", r"links\.moon is unknown"),
        ("[defects]", "[mistakes]", "defects is missing"),
        ("[library]", "[library", "cannot be read"),
        ("median_bytes = 262_144\n", "", r"types\.vm_memory\.median_bytes is missing"),
        ("tail_max_bytes = 83_886_080\n", "", r"types\.vm_memory\.tail_max_bytes is missing"),
        ("min_bytes = 16_384\n", "min_bytes = 999_999_999\n", r"types\.vm_memory\.min_bytes \(.*\) is larger than"),
        ("min_dirty = 0.01\n", "min_dirty = 0.7\n", r"types\.vm_memory\.min_dirty \(0\.7\) is larger than"),
        ("tail_min_bytes = 25_165_824", "tail_min_bytes = 99_000_000", r"tail_min_bytes \(9\.9e\+07\) is larger"),
        ("max_dirty = 0.6", "max_dirty = 1.6", r"types\.vm_memory\.max_dirty is 1\.6: a share is at most 1"),
        ("min_bytes = 16_384", "min_bytes = 0", r"types\.vm_memory\.min_bytes is 0: it must be a positive number"),
        ("sigma = 1.5", 'sigma = "wide"', r"types\.vm_memory\.sigma is 'wide': it must be a positive number"),
        ("seed = ", "sed = ", r"library\.seed is missing"),
        ("from_bytes = 1_048_576\n", "", r"library\.fewer_versions\[0\]\.from_bytes is missing"),
        ("mean_load = ", "average_load = ", r"nodes\.mean_load is missing"),
        ("min_life_weeks = 2.0", "min_life_weeks = 20.0", r"world\.min_life_weeks \(20\) is larger than"),
        ("rtt_ms = [0.1, 0.8]", "rtt_ms = [0.9, 0.8]", r"links\.dc\.rtt_ms is \[0\.9, 0\.8\]"),
    ],
)
def test_a_wrong_mix_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = DEFAULT_MIX.read_text()
    assert old in text
    path = tmp_path / "mix.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(MixError, match=words):
        load_mix(path)


def test_a_missing_mix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MixError, match="cannot be read"):
        load_mix(tmp_path / "none.toml")
