"""The readable specification of fastmlp, in pure numpy.

Every compiled kernel has a function of the same name here, with the same arguments,
defaults and side effects, and the small :class:`MLP` has the interface of
``fastmlp.MLP`` except for the features that its docstring lists. The code favours clear
formulas over speed, works in the dtype of its arrays (float32 or float64) and imports
only numpy and the standard library, so the folder can be read, copied and checked
without the rest of the package.

Conventions: arrays are row-major and rows are samples, ``x (B, I)``, ``w (I, O)``,
``b (O,)``, ``h = act(x @ w + b)``. Outputs come first in an argument list; ``dz``
stands for the derivative of a scalar loss with respect to ``z``. Kernels write into
their first arguments and return ``None``.

References
----------
1. Kingma & Ba, "Adam", ICLR 2015. Loshchilov & Hutter, "Decoupled weight decay
   regularization", ICLR 2019. Reddi et al., "On the convergence of Adam", ICLR 2018.
2. Duchi et al., "Adaptive subgradient methods", JMLR 2011. Hinton, "Neural networks
   for machine learning", lecture 6e, 2012. Sutskever et al., "On the importance of
   initialization and momentum", ICML 2013.
3. He et al., ICCV 2015; Glorot & Bengio, AISTATS 2010; LeCun et al., "Efficient
   BackProp", 1998 (initialisation). Klambauer et al., NeurIPS 2017 (SELU, alpha
   dropout). Clevert et al., ICLR 2016 (ELU). Hendrycks & Gimpel, 2016 (GELU, SiLU).
4. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
5. Srivastava et al., "Dropout", JMLR 2014. Ba et al., "Layer normalization", 2016.
   Ioffe & Szegedy, "Batch normalization", ICML 2015. He et al., "Deep residual
   learning for image recognition", CVPR 2016.
6. Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.
7. Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020.
8. Zeiler, "ADADELTA: an adaptive learning rate method", 2012.
9. Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning:
   the RPROP algorithm", ICNN 1993. Igel & Huesken, "Improving the Rprop learning
   algorithm", NC 2000.
10. Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", SIAM
    Journal on Control and Optimization, 1992.
11. Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023.
12. Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed
    gradients", NeurIPS 2020.
13. Defazio et al., "The road less scheduled", NeurIPS 2024.
14. Mishchenko & Defazio, "Prodigy: an expeditiously adaptive parameter-free learner",
    ICML 2024.
15. Box & Muller, "A note on the generation of random normal deviates", Annals of
    Mathematical Statistics, 1958.
"""

from . import (
    activations,
    arrays,
    initializers,
    layers,
    loss_formulas,
    losses,
    mlp,
    noise,
    normalization,
    optimizer_steps,
    optimizers,
    products,
    random,
)
from .activations import *
from .arrays import *
from .initializers import *
from .layers import *
from .loss_formulas import *
from .losses import *
from .mlp import *
from .noise import *
from .normalization import *
from .optimizer_steps import *
from .optimizers import *
from .products import *
from .random import *

__all__: list[str] = []
__all__ += activations.__all__
__all__ += arrays.__all__
__all__ += initializers.__all__
__all__ += layers.__all__
__all__ += loss_formulas.__all__
__all__ += losses.__all__
__all__ += mlp.__all__
__all__ += noise.__all__
__all__ += normalization.__all__
__all__ += optimizer_steps.__all__
__all__ += optimizers.__all__
__all__ += products.__all__
__all__ += random.__all__
