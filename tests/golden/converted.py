"""Makes `tests/golden/tokenizer/converted`: vocabularies, and what transformers makes of them without a tokenizer.json.

    python converted.py OUT

It trains tiny vocabularies on made-up text (sentencepiece for `*.model`, tokenizers for `vocab.json`, `merges.txt` and the
ranks), lays them out as checkpoints do, loads each folder with AutoTokenizer, and writes the answers to `cases.json`.
`qwen.tiktoken`, which transformers reads by code of the model's repository only, is asked of the library tiktoken.
"""

import base64
import json
import os
import random
import shutil
import sys
import tempfile
import unicodedata
from pathlib import Path

os.environ["TIKTOKEN_CACHE_DIR"] = ""

import sentencepiece
import tiktoken
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoTokenizer, Qwen3_5Tokenizer

transformers.logging.set_verbosity_error()
HERE = Path(__file__).resolve().parent

WORDS = (
    "the of and to in is was for on that with as by at from it his an are this which or be had not but "
    "Straße über größer naïve café coöperate façade señor mañana Ångström œuvre "
    "привет мир большой язык модель Σίσυφος λόγος κόσμος שלום עולם مرحبا العالم नमस्ते दुनिया สวัสดี ชาวโลก "
    "你好 世界 語言 模型 こんにちは 日本語 カタカナ 안녕하세요 세계 한국어 "
    "fn main let mut println! return 3.14 1,234 2024 100% x=y+z; {} [] () // def self. import http://a.b/c?d=e "
    "don't I'll we've they're can't it's QUICK Brown FOX jumps ＦＵＬＬ ｗｉｄｔｈ ﬁne ² ½ № ™ 😀 🚀 👍🏽 é ñ"
).split()

TEXTS = [
    "", " ", "  ", "   leading and trailing   ", "\n", "\n\n\n", "\t\ttabs\t", "a\r\nb\r\n\r\nc", " \n \n  x",
    "Hello world", " Hello world", "Hello  world   again",
    "The quick brown FOX jumps over the lazy dog. 0123456789 3.14159 1,234,567",
    "don't DON'T I'll I'LL we've they're it's 'S 'ſ ’s o'clock'd", "Straße über größer naïve café coöperate",
    "cafe\u0301 n\u0303 A\u030a \u1e9b\u0323 e\u0301\u0302\u0303", "\u0301\u0301 leading marks",
    "ﬁne ﬃ ² ½ № ™ ＦＵＬＬ ｗｉｄｔｈ ｶﾀｶﾅ ㍿ ㎏", "привет мир большой язык", "Σίσυφος λόγος ΚΌΣΜΟΣ ς",
    "שלום עולם שָׁלוֹם", "مرحبا العالم ١٢٣ ﷺ", "नमस्ते दुनिया क्षि १२३", "สวัสดี ชาวโลก ก็ได้", "你好世界，語言模型。",
    "こんにちは日本語カタカナがぎぐ が", "안녕하세요 세계 한국어 \u1112\u1161\u11ab", "𠮷野家 𝒳𝓎𝔃 𐍈", "😀🚀👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇩🇪🇯🇵 ❤️",
    "\u0000 \u0001\u0002 \u001f \u007f \u0080\u009f", "\ufeffBOM \u200b zero\u200dwidth\u200c \u2060 soft\u00adhyphen",
    "nbsp\u00a0x\u2003em\u3000ideographic\u2028line\u2029para\u0085nel\u000bvt\u000cff",
    "\ufffd\ufffe\uffff\U0010ffff \ue000", "▁ ▁▁ a▁b ▁lead trail▁", "<s> </s> <unk> <pad> <bos> <eos>",
    "<s>glued</s>text<unk>", "before <|end|> after<|im_end|>x <|im_start|>user\nhi", "<0x41> <0xE2><0x82> 0x0A",
    "text <|endoftext|> more<|endoftext|><|endoftext|>", "<mark>x <user> y<user>z  <user>  w",
    "[INST] <<SYS>>\nq\n<</SYS>>\n\n [/INST]", "<extra_id_0> fill <extra_id_1>x<extra_id_99>",
    "<start_of_turn>user\nq<end_of_turn>\n", "\n    def f(x):\n\t\treturn x**2  # ²\n\n\n",
    'http://a.b/c?d=e&f=%20#g {"k": [1, -2.5e+10, null]}', "a" * 60, "x" * 33 + " " * 33 + "y",
    "!?!?...;;;---___***===~~~", "1 12 123 1234 12345 ²³ ٣ Ⅷ ⅷ 五", "ÀÉÎõü ÀÉÎ İıŞş ǅ ǆ ẞ",
]  # fmt: skip


def corpus(seed, lines):
    draw = random.Random(seed)
    for _ in range(lines):
        words = [draw.choice(WORDS) for _ in range(draw.randint(3, 14))]
        line = draw.choice([" ", " ", " ", "  ", ", "]).join(words)
        if draw.random() < 0.15:
            line = "    " + line
        if draw.random() < 0.1:
            line += "\t" + draw.choice(WORDS)
        yield line + draw.choice([".", "!", "?", "", "..."])


def piece_models():
    text = Path("corpus.txt")
    text.write_text("\n".join(corpus(7, 3000)))
    rules = Path("rules.tsv")
    replacements = [
        ("ﬁ", "fi"), ("Ａ", "A"), ("ＦＵ", "fu"), ("\u00a0", " "), ("\u200b", ""), ("e\u0301", "é"), ("\u0001", ""),
        ("ﷺ", "صلى الله عليه وسلم"), ("😀", ":-)"), ("\t", "  "), ("ſ", "s"),
    ]  # fmt: skip
    codes = lambda text: " ".join(f"{ord(letter):X}" for letter in text)
    rules.write_text("".join(f"{codes(a)}\t{codes(b)}\n" for a, b in replacements))

    def train(name, **settings):
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=name, num_threads=1, minloglevel=2, character_coverage=0.985, **settings
        )
        Path(f"{name}.vocab").unlink()

    pairs = dict(model_type="bpe", byte_fallback=True)
    whole = dict(normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True)
    whole |= dict(allow_whitespace_only_pieces=True)
    unigram = dict(model_type="unigram", hard_vocab_limit=False)
    own = dict(normalization_rule_tsv=str(rules), user_defined_symbols=["<user>", "<mark>"])
    own |= dict(control_symbols=["<|im_start|>", "<|im_end|>"])
    train("llama", vocab_size=620, **pairs, **whole)
    train(
        "gemma", vocab_size=700, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>",
        eos_piece="<eos>", **pairs, **whole,
        user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "▁▁", "▁▁▁▁", "\t"],
    )  # fmt: skip
    train("t5", vocab_size=400, normalization_rule_name="nmt_nfkc", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, **unigram)
    train("own_pairs", vocab_size=520, **pairs, **own)
    train("own_unigram", vocab_size=500, byte_fallback=True, **unigram, **own)
    text.unlink()
    rules.unlink()


def bytes_to_letters():
    letters = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table = {byte: chr(byte) for byte in letters}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(letters))
    return table


def byte_models():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(11, 3000), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = model["vocab"] | {"<|endoftext|>": len(model["vocab"])}
    Path("vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    Path("merges.txt").write_text("#version: 0.2\n" + merges)

    byte_of = {letter: byte for byte, letter in bytes_to_letters().items()}
    ranks = [bytes([byte]) for byte in byte_of.values()]
    for pair in model["merges"]:
        token = bytes(byte_of[letter] for letter in "".join(pair))
        if token not in ranks:
            ranks.append(token)
    lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks))
    Path("ranks.tiktoken").write_bytes(b"".join(lines))
    listed = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "<pad>"]
    entries = [dict(rank=rank, token_bytes=base64.b64encode(token).decode()) for rank, token in enumerate(ranks)]
    tekken = {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+",
            "default_vocab_size": 400,
            "default_num_special_tokens": 12,
        },
        "vocab": entries,
        "special_tokens": [dict(rank=rank, token_str=token, is_control=True) for rank, token in enumerate(listed)],
    }
    Path("tekken.json").write_text(json.dumps(tekken, separators=(",", ":")))
    del tekken["special_tokens"], tekken["config"]["default_vocab_size"]
    tekken["config"]["default_num_special_tokens"] = 30
    Path("tekken_older.json").write_text(json.dumps(tekken, separators=(",", ":")))
    return {token: rank for rank, token in enumerate(ranks)}


def added(content, **more):
    plain = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    return {"content": content, **plain, **more}


LLAMA = {"tokenizer.model": "llama.model"}
GEMMA = {"tokenizer.model": "gemma.model"}
T5 = {"spiece.model": "t5.model"}
PAIRS = {"vocab.json": "vocab.json", "merges.txt": "merges.txt"}
RANKS = {"tokenizer.model": "ranks.tiktoken"}
JSON = {"tokenizer.json": "../bytelevel/tokenizer.json"}
TURNS = {"620": added("<|im_start|>"), "621": added("<|im_end|>")}
ENDS = {"420": added("<|begin_of_text|>"), "421": added("<|end_of_text|>"), "424": added("<|end|>")}
CASES = [
    # name, files, model_type, tokenizer_config.json, other files
    ("llama_generic", LLAMA, "llama", None, {}),
    ("llama", LLAMA, "llama", dict(
        tokenizer_class="LlamaTokenizer", add_bos_token=True, add_eos_token=False, legacy=False, unk_token="<unk>",
        bos_token={"__type": "AddedToken", **added("<s>", normalized=True)}, eos_token="</s>", pad_token=None), {}),
    ("llama_legacy", LLAMA, "llama", dict(tokenizer_class="LlamaTokenizerFast", add_bos_token=True, legacy=True), {}),
    ("llama_without_prefix", LLAMA, "llama", dict(
        tokenizer_class="LlamaTokenizer", add_bos_token=True, add_eos_token=True, add_prefix_space=False), {}),
    ("llama_added", LLAMA, "llama", dict(
        tokenizer_class="LlamaTokenizer", add_bos_token=True, eos_token="<|im_end|>", pad_token="<pad>",
        added_tokens_decoder={
            "0": added("<unk>"), "1": added("<s>"), "2": added("</s>"), **TURNS,
            "622": added("<user>", special=False, normalized=True),
            "623": added("<mark>", special=False, lstrip=True, rstrip=True)}), {}),
    ("llama_listed", LLAMA, "llama", dict(
        tokenizer_class="LlamaTokenizer", additional_special_tokens=["<|im_start|>", "<|im_end|>"], mask_token="<mask>",
        image_token="<user>"), {}),
    ("llama_older", LLAMA, "llama", dict(tokenizer_class="LlamaTokenizer", add_bos_token=True, eos_token="</s>"), {
        "added_tokens.json": {"<|im_end|>": 621, "<|im_start|>": 620, "<user>": 622},
        "special_tokens_map.json": {"eos_token": "<|im_end|>", "bos_token": added("<s>"), "pad_token": "</s>"}}),
    ("llama_split", LLAMA, "llama", dict(tokenizer_class="LlamaTokenizer", split_special_tokens=True), {}),
    ("mistral", LLAMA, "mistral", dict(tokenizer_class="LlamaTokenizer", add_bos_token=True), {}),
    ("mistral_renamed", LLAMA, "mistral", dict(
        tokenizer_class="LlamaTokenizer", add_bos_token=True,
        added_tokens_decoder={"3": added("<|im_start|>"), "4": added("<|im_end|>"), "620": added("<|end|>", rstrip=True)}), {}),
    ("code_llama", LLAMA, "llama", dict(tokenizer_class="CodeLlamaTokenizer"), {}),
    ("gemma", GEMMA, "gemma3_text", None, {}),
    ("gemma_added", GEMMA, "gemma", dict(
        tokenizer_class="GemmaTokenizer", add_bos_token=True,
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        added_tokens_decoder={"5": added("<start_of_turn>"), "6": added("<end_of_turn>"), "7": added("\n", special=False)}), {}),
    ("t5", T5, "t5", dict(
        tokenizer_class="T5Tokenizer", extra_ids=3, eos_token="</s>",
        additional_special_tokens=["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]), {}),
    # Three tokens of one content and other properties: the last one counts.
    ("t5_older", T5, "t5", None, {"special_tokens_map.json": {"pad_token": added("</s>", single_word=True)}}),
    ("umt5", {"tokenizer.model": "t5.model"}, "umt5", None, {}),
    ("own_pairs", {"tokenizer.model": "own_pairs.model"}, "internlm2", dict(
        tokenizer_class="InternLM2Tokenizer", add_eos_token=True), {}),
    ("own_unigram", {"tokenizer.model": "own_unigram.model"}, "olmo2", None, {}),
    ("gpt2", PAIRS, "gpt2", None, {}),
    ("gpt2_prefix", PAIRS, "gpt2", dict(
        tokenizer_class="GPT2Tokenizer", add_prefix_space=True, add_bos_token=True, pad_token="<pad>"), {}),
    ("starcoder2", PAIRS, "starcoder2", dict(
        tokenizer_class="GPT2Tokenizer", additional_special_tokens=["<user>", "<mark>"],
        added_tokens_decoder={"421": added("<user>"), "422": added("<mark>")}), {}),
    ("qwen2", PAIRS, "qwen2", dict(
        tokenizer_class="PreTrainedTokenizerFast", eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        added_tokens_decoder={
            "420": added("<|endoftext|>"), "421": added("<|im_start|>"), "422": added("<|im_end|>", special=False)}), {}),
    ("gpt_neox", PAIRS, "gpt_neox", dict(tokenizer_class="GPTNeoXTokenizer", add_bos_token=True), {}),
    ("cohere", PAIRS, "cohere", dict(
        tokenizer_class="CohereTokenizer", add_bos_token=True, bos_token="<s>",
        added_tokens_decoder={"421": added("<s>", special=False)}), {}),
    ("ranks", RANKS, "glm4", None, {}),
    ("ranks_added", RANKS, "llama", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin_of_text|>", add_bos_token=True,
        added_tokens_decoder=ENDS, extra_special_tokens=["<user>"]), {}),
    ("ranks_llama", RANKS, "llama", dict(tokenizer_class="LlamaTokenizer", add_bos_token=True), {}),
    ("ranks_listed", {"tiktoken.model": "ranks.tiktoken"}, "kimi_k25", dict(
        additional_special_tokens=["<|im_end|>", "<|end|>"]), {}),
    # Not of a type whose files mistral-common reads, where it is there.
    ("tekken", {"tekken.json": "tekken.json"}, "llama", dict(
        tokenizer_class="TokenizersBackend", bos_token="<s>", eos_token="</s>", add_bos_token=True,
        added_tokens_decoder={"400": added("<user>", special=False)}), {}),
    ("tekken_older", {"tekken.json": "tekken_older.json"}, "llama", None, {}),
    # A tokenizer.json that lacks tokens.
    ("json_added", JSON, "llama", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin|>", eos_token="<|im_end|>",
        added_tokens_decoder={
            "0": added("<|begin|>"), "1": added("<|end|>"), "512": added("<|im_start|>"), "513": added("<|im_end|>"),
            "514": added("<user>", special=False, normalized=True)}), {}),
    ("json_listed", JSON, "llama", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", pad_token="<|pad|>",
        extra_special_tokens=["<|im_start|>", "<mark>"], add_bos_token=True), {}),
    ("json_older", JSON, "llama", dict(tokenizer_class="PreTrainedTokenizerFast", eos_token="</s>"), {
        "added_tokens.json": {"<|im_end|>": 512, "<user>": 513}, "special_tokens_map.json": {"eos_token": "<|im_end|>"}}),
]  # fmt: skip


def answers(encode, decode):
    """Without what follows from the rest: ids that are those with special tokens, texts that are the one encoded."""
    with_special = [encode(text, True) for text in TEXTS]
    plain = [encode(text, False) for text in TEXTS]
    texts = {name: [decode(ids, skip) for ids in with_special] for name, skip in [("omit", True), ("include", False)]}
    same = lambda found, known: [None if a == b else a for a, b in zip(found, known)]
    return {
        "ids": with_special,
        "plain": same(plain, with_special),
        **{name: same(found, TEXTS) for name, found in texts.items()},
    }


def answered(name, files, parts, tokenizer):
    return {
        "name": name,
        "files": files,
        "json": parts,
        "class": type(tokenizer).__name__,
        "size": len(tokenizer),
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
        **answers(
            lambda text, special: tokenizer(text, add_special_tokens=special)["input_ids"],
            lambda ids, skip: tokenizer.decode(ids, skip_special_tokens=skip),
        ),
    }


def case(name, files, model_type, config, more):
    parts = {"config.json": {"model_type": model_type}, **more}
    if config is not None:
        parts["tokenizer_config.json"] = config
    with tempfile.TemporaryDirectory() as folder:
        for file, source in files.items():
            at = HERE / "tokenizer" / source.removeprefix("../") if "../" in source else source
            shutil.copy(at, Path(folder) / file)
        for file, value in parts.items():
            (Path(folder) / file).write_text(json.dumps(value))
        return answered(name, files, parts, AutoTokenizer.from_pretrained(folder))


def qwen3_5():
    """AutoTokenizer does not hand the two files to this class, and its vocabulary stays empty; so it gets them here."""
    vocab = json.loads(Path("vocab.json").read_text())
    merges = [tuple(line.split(" ")) for line in Path("merges.txt").read_text().splitlines()[1:]]
    tokenizer = Qwen3_5Tokenizer(vocab=vocab, merges=merges)
    return answered("qwen3_5", PAIRS, {"config.json": {"model_type": "qwen3_5_text"}}, tokenizer)


def qwen(ranks):
    """Pattern, special tokens and normalization of `tokenization_qwen.py` in the repository Qwen/Qwen-7B."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205))]
    special = {token: len(ranks) + at for at, token in enumerate(special)}
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    encoding = tiktoken.Encoding("qwen", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    encode = lambda text, _: encoding.encode(unicodedata.normalize("NFC", text), allowed_special="all")
    decode = lambda ids, skip: encoding.decode([one for one in ids if not skip or one < len(ranks)], errors="replace")
    return {
        "name": "qwen",
        "files": {"qwen.tiktoken": "ranks.tiktoken"},
        "json": {
            "config.json": {"model_type": "qwen"},
            "tokenizer_config.json": {"tokenizer_class": "QWenTokenizer"},
        },
        "class": "TokenizersBackend",
        "size": encoding.n_vocab,
        "bos": None,
        "eos": len(ranks),
        "pad": None,
        **answers(encode, decode),
    }


# The trainer writes the names of its files into the model: relative ones.
Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
os.chdir(sys.argv[1])
piece_models()
ranks = byte_models()
libraries = [transformers, tokenizers, sentencepiece, tiktoken]
versions = {library.__name__: library.__version__ for library in libraries}
cases = [case(*settings) for settings in CASES] + [qwen3_5(), qwen(ranks)]
lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in cases)
Path("cases.json").write_text(
    f'{{"versions":{json.dumps(versions)},\n"texts":{json.dumps(TEXTS)},\n"cases":[\n{lines}\n]}}\n'
)
