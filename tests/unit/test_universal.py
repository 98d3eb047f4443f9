"""The universal form of a checkpoint: what is refused, and how hooks' partitions are put together."""

import pytest
import torch

from mel_ray.policy.universal import LASTING, _merge, convert


def test_a_checkpoint_without_one_of_its_shards_is_refused(tmp_path):
    (tmp_path / "policy").mkdir()
    torch.save({"dp_world_size": 2}, tmp_path / "policy" / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(ValueError, match="has 1 of 2 shards"):
        convert(tmp_path, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_partitions_of_any_number_of_ranks_make_the_same_parameters(tmp_path, ranks):
    shapes = [{"a": torch.Size([3, 3]), "b": torch.Size([1])}, {"c": torch.Size([5])}]
    values = {name: torch.arange(shape.numel()) + 1.0 for group in shapes for name, shape in group.items()}
    stored = []
    for rank in range(ranks):
        groups = []
        for group in shapes:
            parts = []
            for name in group:
                size = -(-len(values[name]) // ranks)
                padded = torch.nn.functional.pad(values[name], (0, size * ranks - len(values[name])))
                parts.append(padded[rank * size : (rank + 1) * size])
            groups.append({"moment": torch.cat(parts), "step": torch.tensor(7.0)})
        stored.append(groups)
    for name in values:
        (tmp_path / "policy" / "zero" / name).mkdir(parents=True)
    _merge("hook", stored, shapes, tmp_path)
    for name, value in values.items():
        found = torch.load(tmp_path / "policy" / "zero" / name / "hook.moment.pt")["param"]
        assert torch.equal(found, value)
    assert torch.load(tmp_path / f"hook{LASTING}") == {"moment": None, "step": torch.tensor(7.0)}
