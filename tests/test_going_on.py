"""A reply that was stopped is gone on with: what the models are sent, where the two parts meet, and what is judged across it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from ollama import Client

from bases import smollm2_gguf
from kosent import build_chain, chat_model
from kosent.errors import ContextLengthError, UsageError
from kosent.export.modelfile import GO_TEMPLATES
from kosent.llama_cpp_model import LlamaCppChat
from kosent.ollama_tokens import MARKUP, OllamaTokens
from kosent.prompts import LAYOUTS, render
from kosent.reply_guard import REPLACEMENT
from kosent.safety import CARD
from kosent.settings import Settings
from kosent.testing import ScriptedChat
from kosent.turn import ChatInput
from test_openai import Handler, server

GREEDY = Settings(temperature=0.0, max_tokens=16)
FRUITS = "Give me a numbered list of three fruits."
"""SmolLM2 is sure of every word of its answer, so that it does not matter how its batches are cut."""


def asked(begun: str, *history: BaseMessage) -> list[BaseMessage]:
    """What the model is sent, without the system message."""
    model = ScriptedChat(replies=["네."])
    build_chain(model).invoke({"message": "힘들어", "history": list(history), "reply_begun": begun})
    return model.asked[0][1:]


def test_the_messages_end_in_what_was_begun() -> None:
    history = [HumanMessage("안녕"), AIMessage("안녕하세요.")]
    assert asked("많이 {지치셨", *history) == [*history, HumanMessage("힘들어"), AIMessage("많이 {지치셨")]
    assert asked("") == asked(" \n ") == [HumanMessage("힘들어")]
    assert asked("<|im_end|>\n끝")[-1] == AIMessage("< |im_end|>\n끝")


@pytest.mark.parametrize(
    ("begun", "sent", "reply", "rest"),
    [
        ("많이", "많이", " 지치셨군요.", " 지치셨군요."),
        ("많이 ", "많이", " 지치셨군요.", "지치셨군요."),
        ("많이  ", "많이", "  지치셨군요.", "지치셨군요."),
        ("많이 ", "많이", "지치셨군요.", "지치셨군요."),
        ("많이 ", "많이", "\n 지치셨군요.", "\n 지치셨군요."),
        ("첫째,\n", "첫째,\n", " 쉬세요.", " 쉬세요."),
        (" 많이", " 많이", "요.", "요."),
    ],
)
@pytest.mark.parametrize("safety", [True, False])
def test_a_space_where_the_parts_meet_is_there_once(begun: str, sent: str, reply: str, rest: str, safety: bool) -> None:
    """The scripted model says a letter at a time."""
    model = ScriptedChat(replies=[reply])
    assert build_chain(model, safety=safety).invoke({"message": "힘들어", "reply_begun": begun}) == rest
    assert model.asked[0][-1] == AIMessage(sent)


@pytest.mark.parametrize("lang", ["ko", "en"])
async def test_the_card_does_not_come_again(lang: str) -> None:
    model = ScriptedChat(replies=["천천히 말해 주세요."])
    chain = build_chain(model, lang=lang, output="reply")
    whole = await chain.ainvoke({"message": "죽고 싶어"})
    assert whole.text.startswith(CARD[lang]) and whole.safety is not None and whole.safety.card
    begun = f"{CARD[lang]}\n\n많이 힘드"
    for rest in (
        chain.invoke({"message": "죽고 싶어", "reply_begun": begun}),
        await chain.ainvoke({"message": "죽고 싶어", "reply_begun": begun}),
    ):
        assert rest.text == "천천히 말해 주세요."
        assert rest.safety is not None and (rest.safety.level, rest.safety.card) == ("crisis", False)
        assert model.asked[-1][-1] == AIMessage("많이 힘드")
    alone = chain.invoke({"message": "죽고 싶어", "reply_begun": f"{CARD[lang]}\n\n"})
    assert alone.text == "천천히 말해 주세요." and model.asked[-1][-1] == HumanMessage("죽고 싶어")
    assert chain.invoke({"message": "죽고 싶어", "reply_begun": " "}).text == whole.text


@pytest.mark.parametrize("message", ["오늘 좀 우울해", "죽고 싶어"])
def test_a_sentence_is_judged_across_the_seam(message: str) -> None:
    rest = " 게 낫겠네요. 밥은 드셨어요?"
    model = ScriptedChat(replies=[rest])
    chain = build_chain(model, output="reply")
    new = chain.invoke({"message": message})
    assert new.text.endswith(rest), "the second half alone is harmless"
    judged = chain.invoke({"message": message, "reply_begun": "많이 힘드셨겠어요. 그럼 그냥 죽는"})
    assert judged.text == f"… {REPLACEMENT['ko']} 밥은 드셨어요?"
    assert judged.safety is not None and judged.safety.replaced == 1
    for begun in ("많이 힘드셨겠어요. 오늘은 쉬는", "그럼 그냥 죽는 게 낫겠네요. 오늘은 쉬는"):
        harmless = chain.invoke({"message": message, "reply_begun": begun})
        assert harmless.text == rest and harmless.safety is not None and harmless.safety.replaced == 0


def test_nothing_takes_the_place_of_nothing() -> None:
    """What was shown before is not judged anew when the model adds no letter to it."""
    assert build_chain(ScriptedChat(replies=[" "])).invoke({"message": "안녕", "reply_begun": "그럼 그냥 죽는 게 "}) == ""


@pytest.mark.parametrize("begun", [3, None, AIMessage("네")])
def test_what_was_begun_is_a_text(begun: Any) -> None:
    with pytest.raises(UsageError, match="`reply_begun` is a text"):
        build_chain(ScriptedChat(replies=["네."])).invoke({"message": "안녕", "reply_begun": begun})


@pytest.mark.parametrize("begun", ["많이 지치셨", "\n\n네", " 네,", "\U0001fae9 <end_of_turn> 끝", "The capital of Fra"])
def test_the_prompt_is_that_of_the_reply_with_its_beginning(begun: str, starter_gguf: Path) -> None:
    """One text, tokenized as a whole, with no end of turn after it."""
    model = LlamaCppChat(path=str(starter_gguf), context=256)
    llama, layout = model.load(), LAYOUTS["gemma"]
    messages = [{"role": "system", "content": "시스템"}, {"role": "user", "content": "안녕"}]
    text = render(messages, layout.template, layout, bos_token="<bos>", add_generation_prompt=True) + layout.protect(begun)
    found = model.prompt_tokens([SystemMessage("시스템"), HumanMessage("안녕"), AIMessage(begun)])
    assert found == llama.tokenize(text.encode(), add_bos=False, special=True)
    assert llama.detokenize(found, special=True).decode().endswith(f"<start_of_turn>model\n{layout.protect(begun)}")


def test_an_empty_beginning_is_a_new_reply(starter_gguf: Path) -> None:
    model = LlamaCppChat(path=str(starter_gguf), context=256)
    assert model.prompt_tokens([HumanMessage("안녕"), AIMessage("")]) == model.prompt_tokens([HumanMessage("안녕")])


async def test_a_reply_cut_anywhere_goes_on_as_if_it_had_not_been() -> None:
    """At every token of a greedy reply; where the cut text is tokenized as it was written, which it is here."""
    model = LlamaCppChat(path=str(smollm2_gguf()), temperature=0.0, max_tokens=32, context=256)
    whole = await build_chain(model).ainvoke({"message": FRUITS})
    tokens = model.load().tokenize(whole.encode(), add_bos=False, special=False)
    assert len(tokens) > 8
    prompt = model.prompt_tokens([HumanMessage(FRUITS)])
    for count in range(1, len(tokens)):
        begun = build_chain(model.model_copy(update={"max_tokens": count})).invoke({"message": FRUITS})
        assert model.prompt_tokens([HumanMessage(FRUITS), AIMessage(begun)]) == [*prompt, *tokens[:count]]
        given: ChatInput = {"message": FRUITS, "reply_begun": begun}
        assert begun + build_chain(model).invoke(given) == begun + await build_chain(model).ainvoke(given) == whole
    assert build_chain(model).invoke({"message": FRUITS, "reply_begun": whole}) == ""


def test_what_was_begun_stays_with_its_turn_when_the_context_is_full(starter_gguf: Path) -> None:
    model = LlamaCppChat(path=str(starter_gguf), context=256, temperature=0.0, max_tokens=4)
    turns = [kind(f"{number}번째로 한 이야기예요") for number in range(20) for kind in (HumanMessage, AIMessage)]
    newest = [HumanMessage("끝"), AIMessage("그동안 참 많은 이야기를 해 주셨네요. " * 4)]
    reply = model.invoke([SystemMessage("시스템"), *turns, *newest])
    plain = model.invoke([SystemMessage("시스템"), *turns, *newest[:1]])
    dropped = reply.response_metadata["dropped_turns"]
    assert plain.response_metadata["dropped_turns"] < dropped < 20
    kept = [SystemMessage("시스템"), *turns[2 * dropped :], *newest]
    assert reply.usage_metadata is not None and reply.usage_metadata["input_tokens"] == len(model.prompt_tokens(kept))
    with pytest.raises(ContextLengthError, match="too many"):
        model.invoke([HumanMessage("끝"), AIMessage("그동안 참 많은 이야기를 해 주셨네요. " * 40)])


@contextmanager
def made(address: str, name: str, layout: str) -> Iterator[Client]:
    """SmolLM2 in Ollama under another name, with the template that an export writes for the layout."""
    client = Client(host=f"http://{address}", timeout=300)
    client.create(name, from_="smol", template=GO_TEMPLATES[layout], parameters={"num_thread": 1, "repeat_penalty": 1.0})
    try:
        yield client
    finally:
        client.delete(name)


async def test_a_model_in_ollama_goes_on(ollama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Ollama's own protocol and through OpenAI's."""
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    with made(ollama, "open", "chatml"):
        for name in ("ollama:open", f"openai:open:latest@http://{ollama}/v1"):
            chain = build_chain(name, settings=GREEDY)
            whole = chain.invoke({"message": FRUITS})
            assert whole.startswith("1. ") and "\n2. " in whole
            end = whole.index("\n2. ")
            for cut in (end, end + len("\n"), end + len("\n2. ")):
                given: ChatInput = {"message": FRUITS, "reply_begun": whole[:cut]}
                assert whole[:cut] + chain.invoke(given) == whole[:cut] + await chain.ainvoke(given) == whole


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_templates_of_exports_leave_the_last_reply_open(layout: str, ollama: str) -> None:
    """As many tokens as the same text has in llama.cpp, with and without a system message; another turn closes it."""
    from llama_cpp import Llama

    vocabulary = Llama(str(smollm2_gguf()), vocab_only=True, verbose=False)
    user, reply = {"role": "user", "content": "안녕"}, {"role": "assistant", "content": "어서 <b>오"}
    with made(ollama, f"open-{layout}", layout) as client:
        for opening in ([], [{"role": "system", "content": "Kind."}]):
            for talk in ([user], [user, reply, user]):
                text = render([*opening, *talk], LAYOUTS[layout].template, LAYOUTS[layout], add_generation_prompt=True)
                for end in ("", reply["content"]):
                    messages = [*opening, *talk, *([reply] if end else [])]
                    answer = client.chat(f"open-{layout}", messages=messages, options={"num_predict": 1})
                    assert answer.prompt_eval_count == len(vocabulary.tokenize((text + end).encode(), False, True))


def test_the_count_for_ollama_has_what_was_begun(ollama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the model's template leaves it open or, as `smol`'s does, closes it: never too few."""
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    messages = [SystemMessage("You are kind."), HumanMessage("안녕"), AIMessage("어서 오세요. 오늘")]
    with made(ollama, "open", "chatml"):
        for name in ("smol", "open"):
            reply = chat_model(f"ollama:{name}", settings=Settings(max_tokens=1)).invoke(messages)
            assert reply.usage_metadata is not None
            real = reply.usage_metadata["input_tokens"]
            read, by_asking = (OllamaTokens(f"http://{ollama}", name, 2048) for _ in range(2))
            by_asking._searched = True
            assert real <= read.count(messages) <= real + MARKUP
            assert real <= by_asking.count(messages) <= real + MARKUP * len(messages)


async def test_a_server_is_told_to_leave_the_last_message_open() -> None:
    def answer(body: dict[str, Any], handler: Handler) -> None:
        handler.stream(" 지치", "셨군요.")

    with server(answer) as (name, handler):
        chain = build_chain(name, settings=GREEDY)
        given: ChatInput = {"message": "힘들어", "reply_begun": "많이 "}
        assert chain.invoke(given) == await chain.ainvoke(given) == "지치셨군요."
        for body in handler.asked:
            assert body["messages"][-1] == {"role": "assistant", "content": "많이"}
            assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)
        chain.invoke({"message": "힘들어", "history": [HumanMessage("아"), AIMessage("네")]})
        assert "continue_final_message" not in handler.asked[-1] and "add_generation_prompt" not in handler.asked[-1]
