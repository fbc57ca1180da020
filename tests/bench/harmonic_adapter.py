"""An adapter without a package: every atom is pulled to the origin of its cell. What goes wrong is asked for by the name of the
model or of the backend; ``HARMONIC_JOURNAL`` is a file that gets a line of JSON for what it is asked to do."""

import json
import os
import time

import numpy as np


class Adapter:
    packages = ("numpy", "a package that is not there")

    def __init__(self, model, backend, precision, device, weights=None, **options):
        print("packages print to stdout")  # must not disturb the replies
        self.faults, self.backend, self.precision, self.device = {model, backend}, backend, precision, device
        self.note("load", model=model, weights=weights, options=options)
        if "broken" in self.faults:
            raise ValueError("no such model")
        if "single" in self.faults and precision == "fp64":
            raise NotImplementedError("single precision only")
        self.dtype = np.float64 if precision == "fp64" else np.float32
        self.stiffness = 2.0 if "stiff" in self.faults else 1.0
        truth = "fp32" if "single" in self.faults else "fp64"
        kind = "random" if weights is None else "file"
        self.facts = {"parameters": 1, "weights": kind, "weights_sha256": None, "truth": truth, "list_inside": "inside" in self.faults}

    def note(self, what, **more):
        if path := os.environ.get("HARMONIC_JOURNAL"):
            with open(path, "a") as file:
                file.write(json.dumps({"what": what, "backend": self.backend, "precision": self.precision, **more}) + "\n")

    def prepare(self, structures, stress):
        self.structures, self.stress = structures, stress
        self.note("prepare", atoms=len(structures.numbers))
        if "hungry" in self.faults and len(structures.numbers) > 1000:
            raise MemoryError("too many atoms")
        if "starved" in self.faults:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 3 * len(structures.numbers)

    def place(self, positions):
        self.positions = positions.astype(self.dtype)

    def search(self):
        if "inside" in self.faults:
            raise NotImplementedError("this package offers no search on its own")
        self.note("search")

    def evaluate(self):
        self.note("evaluate", position=float(self.positions[0, 0]))
        if "dies" in self.faults:
            os._exit(11)
        if "sleeps" in self.faults or ("waits" in self.faults and len(self.positions) > 20 and os.path.exists("red light")):
            time.sleep(60)
        forces = -self.dtype(self.stiffness) * self.positions
        return -0.5 * np.bincount(self.structures.system, (forces * self.positions).sum(1)), forces

    def answer(self, output):
        energy, forces = output
        if self.dtype == np.float32:
            factors = {"wrong": 1.01, "rough": 1.00001, "undefined": np.nan}
            forces = forces * next((factor for fault, factor in factors.items() if fault in self.faults), 1.0)
        if "shapeless" in self.faults:
            energy = energy.sum()
        answer = {"energy": energy, "forces": forces}
        if self.stress and "stressless" not in self.faults:
            answer["stress"] = np.zeros((len(energy), 3, 3))
        return answer

    def dynamics(self, structures, timestep):
        def run(steps, done):
            for step in range(1, steps + 1):
                self.note("step", timestep=timestep)
                time.sleep(1e-4)
                done(step)

        return run

    def write_weights(self, path):
        if "stiff" in self.faults:
            raise NotImplementedError("its weights stay inside")
        with open(path, "w") as file:
            file.write("spring constant: 1")

    def release(self):
        self.note("release")
        self.structures = None
