"""MLPerf Tiny: the lab as the runner of any firmware that speaks the benchmark's serial protocol (docs/mlperf.md).

``client`` speaks the protocol, ``dataset`` reads labelled sets, ``modes`` enforces the rules of the three modes,
``session`` puts what they yield into the store, ``command`` is the command line. The firmware that speaks the protocol
itself is in ``firmware/mlperf``.
"""
