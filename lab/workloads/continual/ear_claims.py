"""What EAR claims, and what of it must hold here. Its abstract gives no figures."""

from __future__ import annotations

from lab.workloads.base import Claim

PAPER = "EAR (S187), abstract: no figure"
FULL, SHARED = "update=full,rate=0.02", "update=shared"
_QUESTIONS = "200 questions, 50 images in each of four domains"

CLAIMS: tuple[Claim, ...] = (
    Claim("S187", "One more domain costs an adaptor and a bundle, not a copy of the network.", PAPER, "memory.domain",
          FULL, "reduction", None, "a bundle's signs lie in float32 here; as bits they would be a 32nd",
          at_least=8.0),
    Claim("S187", "What training needs of RAM: arena and variables.", PAPER, "memory.m4", FULL, "reduction", None,
          "the encoder's largest maps are in both", at_least=2.0),
    Claim("S187", "Backward ends at the adaptors.", PAPER, "instructions", FULL, "reduction", None,
          "the encoder takes no part in it", region="train.backward", at_least=5.0),
    Claim("S187", "A training step executes less.", PAPER, "instructions", FULL, "reduction", None,
          "forward is the same but for the router", region="train.step", at_least=1.3),
    Claim("S187", "Routing costs little beside the encoder.", PAPER, "instructions", FULL, "factor", None,
          "projection, similarities and all adaptors are computed, and gates choose among them: no jump is taken",
          region="inference", at_most=1.3),
    Claim("S187", "Adapting helps: accuracy over all domains rises.", PAPER, "accuracy", "", "difference", None,
          f"{_QUESTIONS}; 30 images of each domain are few", at_least=0.05, against=("accuracy.untrained", "run")),
    Claim("S187", "The source is not forgotten, where full training does.", PAPER, "accuracy.source", FULL,
          "difference", None, "50 questions; inputs routed to a wrong adaptor can still be lost", at_least=0.0),
    Claim("S187", "Over all domains it is as accurate as full training.", PAPER, "accuracy", FULL, "difference", None,
          f"{_QUESTIONS} tell no small difference; an adaptor behind the encoder cannot restore what the encoder has "
          "lost, as of inverted digits", at_least=-0.1),
    Claim("S187", "Adaptors of their own are better than one for all.", PAPER, "accuracy", SHARED, "difference", None,
          f"{_QUESTIONS} tell no difference this small"),
)  # fmt: skip
