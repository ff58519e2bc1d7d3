"""The objectives and the kinds of views that a run may have, by their names. One line makes another one known."""

from __future__ import annotations

from typing import Any

from learner.objectives.autoencoders.autoencoder import Autoencoder
from learner.objectives.autoencoders.ccvae import CCVAE
from learner.objectives.babyagent import BabyAgent
from learner.objectives.contract import Objective
from learner.objectives.contrastive import Contrastive
from learner.objectives.control.dbc import DBC
from learner.objectives.control.deepmdp import DeepMDP
from learner.objectives.control.dynamics import Dynamics
from learner.objectives.joint.byol import BYOL
from learner.objectives.joint.deepcluster import DeepCluster
from learner.objectives.joint.deepclusterv1 import DeepClusterV1
from learner.objectives.joint.dino import DINO
from learner.objectives.joint.lejepa import LeJEPA
from learner.objectives.joint.moco import MoCo
from learner.objectives.joint.mocov1 import MoCoV1
from learner.objectives.joint.mocov3 import MoCoV3
from learner.objectives.joint.simclr import SimCLR
from learner.objectives.joint.simsiam import SimSiam
from learner.objectives.joint.swav import SwAV
from learner.objectives.joint.vicreg import VICReg
from learner.objectives.joint.visreg import VISReg
from learner.objectives.labels import Labels
from learner.objectives.masked.aim import AIM
from learner.objectives.masked.context import Context
from learner.objectives.masked.denoise import Denoise
from learner.objectives.masked.franca import Franca
from learner.objectives.masked.ijepa import IJEPA
from learner.objectives.masked.mae import MAE
from learner.objectives.masked.stacked import Stacked
from learner.objectives.metric.empssl import EMP
from learner.objectives.metric.exemplar import Exemplar
from learner.objectives.metric.fairvicreg import FairVICReg
from learner.objectives.metric.instance import Instance
from learner.objectives.metric.lifted import Lifted
from learner.objectives.metric.margin import Margin
from learner.objectives.metric.npair import NPair
from learner.objectives.ntxent import NTXent
from learner.objectives.pretext.bigan import BiGAN
from learner.objectives.pretext.colourise import Colourise
from learner.objectives.pretext.counting import Counting
from learner.objectives.pretext.cpc import CPC
from learner.objectives.pretext.jigsaw import Jigsaw
from learner.objectives.pretext.position import Position
from learner.objectives.pretext.rotation import Rotation
from learner.objectives.pretext.splitbrain import SplitBrain
from learner.objectives.temporal.arrow import Arrow
from learner.objectives.temporal.mftcn import MultiFrame
from learner.objectives.temporal.oddone import OddOne
from learner.objectives.temporal.pointing import Pointing
from learner.objectives.temporal.shuffle import Shuffle
from learner.objectives.temporal.tct import TCT
from learner.objectives.temporal.timecpc import TimeCPC
from learner.objectives.temporal.tracking import Tracking
from learner.views.clips.steady import EyesConfig, SteadyConfig
from learner.views.clips.tracked import TrackedConfig
from learner.views.contract import ViewsConfig
from learner.views.default import DefaultViews
from learner.views.masks import BlockConfig, MasksConfig
from learner.views.one_eye import WholeConfig
from learner.views.parallax import ParallaxConfig
from learner.views.several import SEVERAL

_JOINT = (SimCLR, MoCoV1, MoCo, MoCoV3, BYOL, SimSiam, DINO, SwAV, DeepClusterV1, DeepCluster, VICReg, LeJEPA, VISReg)
_METRIC = (Margin, Lifted, NPair, Exemplar, EMP, Instance, FairVICReg)
_PRETEXT = (Rotation, Position, Jigsaw, Counting, Colourise, SplitBrain, CPC, BiGAN)
_MASKED = (MAE, IJEPA, Context, Denoise, Stacked, AIM, Franca)
_AUTOENCODERS = (Autoencoder, CCVAE)
_TEMPORAL = (TCT, MultiFrame, TimeCPC, Shuffle, OddOne, Arrow, Tracking, Pointing)
_CONTROL = (Dynamics, DeepMDP, DBC)
_ONE_EYE = (*_MASKED, *_AUTOENCODERS)
_OBJECTIVES = (BabyAgent, Contrastive, NTXent, *_JOINT, *_METRIC, *_PRETEXT, *_ONE_EYE, *_TEMPORAL, *_CONTROL)
OBJECTIVES: dict[str, type[Objective[Any]]] = {kind.settings.name: kind for kind in _OBJECTIVES}
BESIDE: dict[str, type[Objective[Any]]] = {Labels.settings.name: Labels}
"""Those that say nothing of pairs, and stand only behind another one and a +."""
_ONE: tuple[type[ViewsConfig], ...] = (MasksConfig, BlockConfig, ParallaxConfig, WholeConfig)
_CLIPS: tuple[type[ViewsConfig], ...] = (EyesConfig, SteadyConfig, TrackedConfig)
_VIEWS: tuple[type[ViewsConfig], ...] = (DefaultViews, *SEVERAL, *_ONE, *_CLIPS)
VIEWS: dict[str, type[ViewsConfig]] = {kind.name: kind for kind in _VIEWS}
