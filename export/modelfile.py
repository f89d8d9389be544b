"""What Ollama must be told so that it says what was trained: template, system message, stops, sampling.

The template is Go's, and renders what the run's Jinja template renders, but for the beginning-of-sequence token, which Ollama
adds by itself, and for a final assistant message, which stays open, so that the reply goes on with it. A turn marker that
somebody types is text there too. `repeat_penalty` is written out, because Ollama's own, 1.1, changes even greedy text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kosent.errors import UsageError
from kosent.prompts import LAYOUTS, Layout
from kosent.settings import DEFAULT_CONTEXT, Settings


def _go_text(markers: Sequence[str]) -> str:
    """Go's `Layout.protect`: writes a text with a space in each turn marker, letter by letter, as `replace` is not known there.

    Text without any of < > & ' " is written at once. A place in the middle of a letter is one byte from 80 to bf.
    """
    known = " ".join(f'(eq (printf "%.{len(marker)}s" $rest) "{marker}")' for marker in markers)
    return (
        '{{- define "text" }}{{ if eq (html .) . }}{{ . }}{{ else }}{{ $all := . }}{{ range $place := len $all }}'
        '{{ $rest := slice $all $place }}{{ $letter := printf "%.1s" $rest }}{{ $code := printf "%x" $letter }}'
        '{{ if not (and (eq (len $code) 2) (ge $code "80") (lt $code "c0")) }}{{ $letter }}'
        f'{{{{ if eq $letter "<" }}}}{{{{ if or {known} }}}} {{{{ end }}}}{{{{ end }}}}'
        "{{ end }}{{ end }}{{ end }}{{ end }}"
    )


_CONVERSATIONS = {  # a turn is closed where the next one begins, so that a final assistant message stays open
    "gemma": """{{- $system := "" }}{{ $role := "" -}}
{{ range .Messages }}{{ if eq .Role "system" }}{{ $system = .Content }}{{ else }}{{ if $role }}<end_of_turn>
{{ end }}<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}user{{ end }}
{{ if and $system (not $role) }}{{ template "text" $system }}

{{ end }}{{ $role = .Role }}{{ template "text" .Content }}{{ end }}{{ end }}{{ if ne $role "assistant" }}<end_of_turn>
<start_of_turn>model
{{ end }}""",
    "llama3": """{{- $role := "" }}{{ range .Messages }}{{ if $role }}<|eot_id|>{{ end }}{{ $role = .Role -}}
<|start_header_id|>{{ .Role }}<|end_header_id|>

{{ template "text" .Content }}{{ end }}{{ if ne $role "assistant" }}<|eot_id|><|start_header_id|>assistant<|end_header_id|>

{{ end }}""",
    "chatml": """{{- $role := "" }}{{ range .Messages }}{{ if $role }}<|im_end|>
{{ end }}{{ $role = .Role }}<|im_start|>{{ .Role }}
{{ template "text" .Content }}{{ end }}{{ if ne $role "assistant" }}<|im_end|>
<|im_start|>assistant
{{ end }}""",
}
GO_TEMPLATES = {name: _go_text(LAYOUTS[name].markers) + text for name, text in _CONVERSATIONS.items()}
STOPS = {
    "gemma": ("<end_of_turn>", "<start_of_turn>"),
    "llama3": ("<|eot_id|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    "chatml": ("<|im_end|>", "<|im_start|>"),
}


@dataclass(frozen=True)
class OllamaSettings:
    template: str
    system: str
    parameters: dict[str, Any]
    licence: str = ""

    def modelfile(self, source: str) -> str:
        """The text of a Modelfile whose weights are the file `source`. Raises `UsageError` for a text that it cannot hold."""
        lines = [f"FROM {source}", f'TEMPLATE """{self.template}"""']
        if '"""' in self.system + self.licence:
            raise UsageError(
                'A Modelfile cannot hold a system message or licence with """ in it.',
                hint="take it out of the licence file beside the base, or out of the system message",
            )
        if self.system:
            lines.append(f'SYSTEM """{self.system}"""')
        for name, value in self.parameters.items():
            lines += [f"PARAMETER {name} {_quoted(one)}" for one in (value if isinstance(value, list) else [value])]
        if self.licence:
            lines.append(f'LICENSE """{self.licence}"""')
        return "\n".join(lines) + "\n"


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def ollama_settings(layout: Layout, system: str, *, licence: str = "") -> OllamaSettings:
    """With the context and the sampling that `kosent chat` has by itself."""
    chat = Settings()
    parameters = {
        "stop": list(STOPS[layout.name]),
        "num_ctx": DEFAULT_CONTEXT,
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "repeat_penalty": 1.0,
    }
    return OllamaSettings(GO_TEMPLATES[layout.name], system, parameters, licence)
