"""What the chat says, in Korean and English. Every text exists in both."""

from __future__ import annotations

TEXTS = {
    "ko": {
        "placeholder": "무슨 일이 있었는지 편하게 적어 주세요",
        "welcome": "안녕하세요. 오늘 하루는 어떠셨어요?\n어떤 이야기든 괜찮아요. 대화는 이 컴퓨터에만 남습니다.",
        "loading": "모델을 불러오는 중이에요…",
        "ready": "준비됐어요",
        "writing": "답하는 중이에요 · Esc를 누르면 멈춰요",
        "stopped": "여기서 멈췄어요.",
        "cut_off": "프로그램이 꺼져서 여기까지만 남았어요.",
        "failed": "답을 끝까지 받지 못했어요: {reason}",
        "try": "해 보세요: {hint}",
        "busy": "아직 답하는 중이에요. Esc로 멈춘 뒤에 보내 주세요.",
        "speed": "{tokens}토큰 · {speed:.0f}토큰/초",
        "you": "나",
        "reply": "KoSent",
        "new": "새 대화",
        "stop": "멈추기",
        "quit": "나가기",
    },
    "en": {
        "placeholder": "Write whatever is on your mind",
        "welcome": "Hello. How was your day?\nAnything is fine to talk about. The conversation stays on this computer.",
        "loading": "Loading the model…",
        "ready": "Ready",
        "writing": "Writing · Esc stops",
        "stopped": "Stopped here.",
        "cut_off": "The program ended here; this is what was saved.",
        "failed": "The reply could not be finished: {reason}",
        "try": "Try: {hint}",
        "busy": "Still writing. Press Esc first, then send.",
        "speed": "{tokens} tokens · {speed:.0f} tokens/s",
        "you": "You",
        "reply": "KoSent",
        "new": "New",
        "stop": "Stop",
        "quit": "Quit",
    },
}
