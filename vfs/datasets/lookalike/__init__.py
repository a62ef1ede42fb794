"""Stores that look like those of Ego4D, Ego-Exo4D and Kinetics: small, made on the spot, made up to the last number.

Hides how these datasets keep their files: which bucket holds what, the shapes of their manifests and metadata, and
the gaps that they have. What is written is ROOT/<bucket>/<key>, as the stores of Ego4D and Ego-Exo4D have it, which may
share a root; of Kinetics, what a crawler leaves behind in a folder. Called by
the generator of the demo's tree and by tests; must not know how a video is drawn or encoded (vfs.video.sample does).

Names of buckets, keys and columns: the datasets' command-line tools and documents. Takes, people, uids and texts are
made up: no byte of the datasets is in here.

Videos are few encodings, each copied wherever such a video stands, with its key in a box behind the last: no two are
the same bytes. Any thread of any process may call, with a root of its own; it blocks. The same bytes come every time
for one build of the encoders.
"""

from vfs.datasets.lookalike.ego4d import make_ego4d
from vfs.datasets.lookalike.egoexo4d import make_egoexo4d
from vfs.datasets.lookalike.kinetics import make_kinetics

__all__ = ["make_ego4d", "make_egoexo4d", "make_kinetics"]
