"""Read a page of the report: its text, tables and script."""

import re
from html.parser import HTMLParser


class Parsed(HTMLParser):
    """The text, table rows, tags, ids and addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.ids, self.addresses, self.tags, self.text, self.inside = [], [], [], [], "", False
        self.feed(text)
        self.text = " ".join(self.text.split())
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        fetching = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        self.addresses += [value for name, value in attrs if name in fetching]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.rows[-1][-1] += data


def page_script(text):
    """The one script of a page that is no data."""
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    return script
