"""The passages that an answer was given: named under it, and shown when one is clicked."""

from app.dom import find, show, stamp


def draw_sources(box, message):
    """Name the passages of an answer in `box`: those that it cites as [1], else all that it was given."""
    found = message.get("sources") or []
    show(box, bool(found))
    if not found or box.childElementCount > 1:
        return
    cited = [source for source in found if f"[{source['number']}]" in message["content"]]
    box.children[0].textContent = "Sources" if cited else "Read for this answer"
    for source in cited or found:
        row = stamp("t-source")
        row.setAttribute("data-number", str(source["number"]))
        row.children[0].textContent = str(source["number"])
        row.children[1].textContent = place_of(source)
        box.append(row)


def place_of(source):
    """Return where a passage stands, in a few words."""
    name = source.get("source") or "a text"
    if source.get("page"):
        return f"{name}, page {source['page']:,}"
    return f"{name}, line {source['line']:,}" if source.get("line") else name


def show_passage(message, number):
    """Show the passage of this number in a dialog."""
    for source in message["sources"]:
        if source["number"] == number:
            find("passage-title").textContent = place_of(source)
            find("passage-heading").textContent = " \u203a ".join(source.get("heading") or ())
            show(find("passage-heading"), bool(source.get("heading")))
            find("passage-text").textContent = source["text"]
            find("passage").showModal()
            find("passage-text").scrollTop = 0


def kept_sources(items):
    """Return what an answer keeps of the passages that were recalled for it."""
    names = ("number", "source", "heading", "page", "line", "text")
    return [{name: item[name] for name in names if item.get(name)} for item in items]
