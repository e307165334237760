"""What the scripts of libraries on PyTorch share."""

import os
import warnings

# A library's formula is to run as it is written, not as a compiler fuses it.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import torch
import tqdm
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

warnings.filterwarnings("ignore")
logging.disable_progress_bar()
# compressed-tensors asks nobody before it draws.
DRAW = tqdm.tqdm.__init__
tqdm.tqdm.__init__ = lambda self, *arguments, **options: DRAW(self, *arguments, **options | {"disable": True})
torch.set_grad_enabled(False)


def numpy(tensor):
    """A float tensor in f32, which holds halves exactly."""
    return tensor.detach().to(torch.float32).cpu().contiguous().numpy()


def short(dtype):
    return str(dtype).removeprefix("torch.")


def rounded(dtypes):
    """Rounds f32 arrays to a type, or each to its own, and widens them again."""

    def of(name, array):
        dtype = dtypes[name] if isinstance(dtypes, dict) else dtypes
        return numpy(torch.from_numpy(np.array(array)).to(dtype))

    return of


def load(folder, **options):
    """What transformers makes of `folder`. That it leaves out a tensor of ours, or lacks one, is an error."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", **options
    )
    wrong = {what: sorted(names) for what, names in info.items() if names}
    if wrong:
        raise RuntimeError(f"transformers does not load all: {wrong}")
    return model.eval()


def plain(case):
    """The model without weights and without quantization, in f32."""
    config = AutoConfig.from_pretrained(case.model)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


def forward(model, ids):
    """Logits `[tokens, vocabulary]` in f32."""
    return numpy(model(torch.tensor([ids]), use_cache=False).logits[0])


def logits_of(case, weights):
    """Logits of the model of `case` with these f32 weights, in f32 throughout."""
    model = plain(case)
    missing, beyond = model.load_state_dict(
        {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}, strict=False
    )
    # A tied head is no tensor of the file.
    if beyond or [name for name in missing if name != "lm_head.weight" or not model.config.tie_word_embeddings]:
        raise RuntimeError(f"missing {missing}, more {beyond}")
    model.tie_weights()
    return forward(model, case.ids())
