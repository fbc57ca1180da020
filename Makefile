# Everything runs in .venv, made on demand; nothing outside this folder is touched.
PYTHON ?= python3.11
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
# Wheels come from the index pip is set up with; constraints.txt keeps torch to the build a fresh machine gets.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow test-gpu check format clean

demo: .venv/installed
	@mkdir -p demo-out
	$(BIN)/mosso relax examples/ethanol.xyz --model mosso-xtb-s --fmax 0.01 -o demo-out/ethanol-relaxed.extxyz
	$(BIN)/mosso md examples/water24.extxyz --model mosso-xtb-s --ensemble nvt --temperature 300 --friction 0.01 \
		--timestep 0.5 --steps 400 --log-every 20 --write-every 20 --seed 0 -o demo-out/water24.extxyz

test: .venv/tested
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-slow: .venv/tested
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: .venv/tested
	$(BIN)/python -m pytest -m gpu

check: .venv/checked
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/checked
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo-out

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(INSTALL) -e .
	@touch $@

.venv/tested: .venv/installed
	$(INSTALL) -e ".[test]"
	@touch $@

.venv/checked: .venv/installed
	$(INSTALL) -e ".[test,check]"
	@touch $@
