"""Reading and writing named values inside a function: layers, heads, neurons.

    tag(x, "name")                        in the function; `checkpoint_name` is the same
    names(f)(*inputs)                     what can be named, with shapes and dtypes
    read(f, names)(*inputs)               -> output, {name: value}
    write(f, names)(values, *inputs)      -> output, with values replaced by arguments
    edit(f, {name: function})(*inputs)    -> output, with values changed by functions
    at(f, name)                           g(value, *inputs): f as a function of the value there

The function is staged as a program, in which a tag is an equation of its own: nothing is patched,
nothing is global, and a tag that is not asked for leaves no trace in the compiled program.
docs/sites.md says what a name means in loops, branches and shards.
"""

from jaxplain.sites._edit import edit
from jaxplain.sites._names import names
from jaxplain.sites._read import read
from jaxplain.sites._tag import tag
from jaxplain.sites._write import at, write

__all__ = ["at", "edit", "names", "read", "tag", "write"]
