"""A report under a privacy rule that hospitals keep: made once per stage, case by case."""

import secrets

from torch import nn

from fedcl.arrays import Arrays
from fedcl.hospital.checks import keeps_privacy
from fedcl.hospital.site import Hospital
from fedcl.learning import loop
from fedcl.learning.strategy import Reporting
from fedcl.wire.requests import ReportRequest


def protected(
    hospital: Hospital, call: ReportRequest, reporting: Reporting, network: nn.Module
) -> Arrays:
    """Return what is told of the stage that a call is about, to everybody who asks.

    Noise drawn anew for another try or a resumed run would be another release, whose mean with
    the first has less noise.

    Args:
        hospital: keeps it with the state of its own.
        call: says which cases it is made of.
        reporting: of the strategy.
        network: in evaluation mode, with the weights sent.

    Raises:
        DataError: others know the noise, whether or not the server has asked for a greeting.
    """
    keeps_privacy(hospital)
    stage, job = len(call.arrivals) - 1, hospital.job

    def make() -> Arrays:
        device = loop.device_of(job.learner)
        cases = hospital.cases(call.shares)
        parts = (reporting.tell(network, hospital.task.samples([case], device)) for case in cases)
        secret = secrets.randbits(62), hospital.site, stage
        return job.privacy.told(parts, reporting.forms, secret)

    return hospital.state().once(f"report-{stage:06d}", make)
