from plain import drawn
from torch.testing import assert_close

from expunge.objectives.forget.altpo import METHOD, altpo
from expunge.objectives.forget.dpo import METHOD as DPO
from expunge.objectives.forget.dpo import dpo


def test_it_is_dpo_with_other_data():
    inputs = [drawn(4, seed=s) for s in range(4)]
    assert_close(altpo(*inputs, beta=0.3), dpo(*inputs, beta=0.3))
    assert METHOD.epochs == DPO.epochs
    assert METHOD.generates["alternates"] == 5
