"""stub"""

import dataclasses


@dataclasses.dataclass
class Estimate:
    asked: object

    def said(self):
        return f"{len(self.asked.missing)} of {len(self.asked.chosen)} runs to make, {self.asked.jobs} at a time"

    def refuse_full_disk(self):
        pass


def estimate(asked):
    return Estimate(asked)
