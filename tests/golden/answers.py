"""Which tokens of a chat are trained on, by TRL's training templates and transformers' assistant mask.

    pip install transformers trl
    python tests/golden/answers.py

writes answers.json: for each family the template of the published model (`stock`) and TRL's variant with `generation` blocks
(`marked`), and chats with the ids and the mask that transformers gives with the variant.

`trained` is the mask for the published template, where both write the same text (some variants also change what is written).
It is the mask of the variant without two stretches on which TRL trains in some families and not in others: the header of the
assistant, which the prompt of generation writes, and line breaks behind the token that ends an answer. In gpt-oss the `<|end|>` of
answers that are not the last one is taken out too: a model that says it goes on, and ends with `<|return|>` ("<|return|> indicates
the end of generation, but <|end|> does not", says the template).
"""

import json
import pathlib
import time

import transformers
import trl
from transformers import AddedToken, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
TEMPLATES = pathlib.Path(trl.__file__).parent / "chat_templates"

# Family: tokens that are special, tokens that are text, and of the first those that begin and end a text.
CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
THINK = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
HEADER = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
TURN = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
FAMILIES = {
    "qwen2_5": (CHATML, THINK, None, "<|im_end|>"),
    "qwen3": (CHATML, THINK, None, "<|im_end|>"),
    "qwen3_instruct_2507": (CHATML, THINK, None, "<|im_end|>"),
    "llama3": (HEADER, [], "<|begin_of_text|>", "<|eot_id|>"),
    "gemma": (TURN, [], "<bos>", "<eos>"),
    "gemma3": (TURN, [], "<bos>", "<eos>"),
    "phi3": (["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"], [], None, "<|endoftext|>"),
    "deepseekv3": (["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"], [],
                   "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "glm4moe": (["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>"], THINK, None,
                "<|endoftext|>"),
    "gptoss": (["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"], [], None, "<|return|>"),
    "cohere": (["<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
                "<|SYSTEM_TOKEN|>"], [], "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "lfm2_v2": (["<|startoftext|>", "<|im_start|>", "<|im_end|>"], [], "<|startoftext|>", "<|im_end|>"),
}

def user(text):
    return {"role": "user", "content": text}

def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
CHATS = {
    "one": [user("What is `let`?"), assistant("A binding.")],
    "several": [user("Hi"), assistant("Hello."), user("Hello."), assistant("Hello."), user("é?"), assistant("  Ünï\n\ncode ☃ ")],
    "system": [{"role": "system", "content": "Be short."}, user("Why?"), assistant("Because.\n"), user("Why?"), assistant("It is.")],
    "thoughts": [user("1+1"), assistant("<think>\nOne and one.\n</think>\n\n2"), user("2+2"), assistant("<think>\nTwo.\n</think>\n\n4")],
    "open": [user("Hi"), assistant("Hello."), user("Are you there?")],
    "call": [user("1+2?"), assistant("", tool_calls=[CALL]), {"role": "tool", "name": "add", "content": "3"}, assistant("It is 3.")],
}

def tokenizer_of(special, text, bos, eos):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(HERE.parent.parent / "assets/tinyrust/tokenizer.json"))
    tokens = [AddedToken(token, special=True, normalized=False) for token in special]
    tokens += [AddedToken(token, special=False, normalized=False) for token in text]
    tokenizer.add_tokens(tokens)
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    added = {
        str(tokenizer.convert_tokens_to_ids(token)): {"content": token, "special": token in special, "normalized": False,
                                                       "lstrip": False, "rstrip": False, "single_word": False}
        for token in special + text
    }
    return tokenizer, {"bos_token": bos, "eos_token": eos, "added_tokens_decoder": added}

def without_prompts(tokenizer, messages, stock, text, mask):
    """Without what the prompt of generation writes in front of each answer. Where the text has something else there (thoughts that
    the prompt begins and the template leaves out), without the mark of the assistant."""
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    mask = list(mask)
    for nth, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = [tokenizer.apply_chat_template(messages[:nth], chat_template=stock, tokenize=False, add_generation_prompt=adds)
                 for adds in (False, True)]
        if text.startswith(asked[1]):
            for place, (begin, end) in enumerate(offsets):
                if len(asked[0]) <= begin and end <= len(asked[1]):
                    mask[place] = 0
        elif text.startswith(asked[0] + "<｜Assistant｜>"):
            mask[next(place for place, (begin, _) in enumerate(offsets) if begin == len(asked[0]))] = 0
    return mask

def without_breaks(tokenizer, ids, mask, special):
    """Without the spaces behind a special token that ends a stretch."""
    ends = {tokenizer.convert_tokens_to_ids(token) for token in special}
    mask = list(mask)
    for last in range(len(mask)):
        if mask[last] and (last + 1 == len(mask) or not mask[last + 1]):
            at = last
            while at > 0 and mask[at] and not tokenizer.decode([ids[at]]).strip():
                at -= 1
            if ids[at] in ends:
                mask[at + 1:last + 1] = [0] * (last - at)
    return mask

# Tokens that end generation, where there are more than one.
ENDS = {"glm4moe": ["<|endoftext|>", "<|user|>", "<|observation|>"]}

families = {}
for family, (special, text, bos, eos) in FAMILIES.items():
    stock = (TEMPLATES / f"{family}.jinja").read_text()
    marked = (TEMPLATES / f"{family}_training.jinja").read_text()
    tokenizer, config = tokenizer_of(special, text, bos, eos)
    chats = []
    for name, messages in CHATS.items():
        try:
            texts = [tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False) for template in (stock, marked)]
        except Exception as error:
            print(family, name, "refused:", str(error)[:80])
            continue
        out = tokenizer.apply_chat_template(messages, chat_template=marked, tokenize=True, return_dict=True,
                                            return_assistant_tokens_mask=True)
        ids, mask = out["input_ids"], out["assistant_masks"]
        chat = {"name": name, "messages": messages, "ids": ids, "marked": "".join(map(str, mask))}
        if texts[0] == texts[1]:
            mask = without_prompts(tokenizer, messages, stock, texts[0], mask)
            if family == "gptoss":
                end = tokenizer.convert_tokens_to_ids("<|end|>")
                mask = [trained * (token != end) for token, trained in zip(ids, mask)]
            chat["trained"] = "".join(map(str, without_breaks(tokenizer, ids, mask, special)))
        print(family, name, chat["marked"].count("1"), chat.get("trained", "").count("1"))
        chats.append(chat)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ENDS.get(family, [eos])]
    families[family] = {"ends": ends, "config": config, "stock": stock, "marked": marked, "chats": chats}

made_with = f"transformers {transformers.__version__}, trl {trl.__version__}"
# Some templates write the day.
out = {"made_with": made_with, "date": int(time.time()), "families": families}
(HERE / "answers.json").write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n")
