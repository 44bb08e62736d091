"""Operators, one file each. Importing this package registers what capture understands."""

from __future__ import annotations

from lab.compiler.operators import add as add
from lab.compiler.operators import avg_pool2d as avg_pool2d
from lab.compiler.operators import batch_norm as batch_norm
from lab.compiler.operators import clamp as clamp
from lab.compiler.operators import conv2d as conv2d
from lab.compiler.operators import depthwise_conv2d as depthwise_conv2d
from lab.compiler.operators import identity as identity
from lab.compiler.operators import linear as linear
from lab.compiler.operators import max_pool2d as max_pool2d
from lab.compiler.operators import multiply as multiply
from lab.compiler.operators import pad as pad
from lab.compiler.operators import reshape as reshape
from lab.compiler.operators import sample_norm as sample_norm
from lab.compiler.operators import table as table
