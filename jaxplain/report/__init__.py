"""The page of a run: what was explained, how good the explanations are, and what they look like.

    store(s) -> figures, streamed from disk -> charts and pictures -> one HTML file

The file is whole in itself: no script, nothing fetched from elsewhere, and every text that came
from a user escaped. It is read on a phone and in the dark. Pictures need
`pip install 'jaxplain[plot]'`.
"""

from jaxplain.report._write import write

__all__ = ["write"]
