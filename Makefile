# Each of these sets up what it needs, from a bare Debian 12 on; the second time nothing is left to set up.

.PHONY: help train test test-slow bench setup build package docs format tidy clean

help:
	@echo 'make train      train the MNIST network in mixed precision'
	@echo 'make test       build everything and run the tests'
	@echo 'make test-slow  run the tests that take many minutes'
	@echo 'make bench      time training steps beside Python PyTorch; BENCH_ARGS=--quick for a minute'
	@echo 'make setup      install what the build needs: Debian packages and LibTorch'
	@echo 'make build      build everything (release)'
	@echo 'make docs       the API reference, by Doxygen: build/docs/index.html'
	@echo 'make package    a .deb and a .tar.gz of what cmake installs, into build/packages'
	@echo 'make format     format all C++ files'
	@echo 'make tidy       run clang-tidy on all library files'
	@echo 'make clean      remove the build folders'

train: setup
	@scripts/build release halfstep_command
	build/release/halfstep train configs/mnist_mlp.yaml --amp

test: build
	@scripts/test release -LE slow
	@echo 'left out: what takes many minutes (make test-slow)'

test-slow: build
	@scripts/test release -L slow

# BENCH_PYTHON: a Python with PyTorch of the same version, instead of setting one up (6 GB).
bench: setup
ifndef BENCH_PYTHON
	@scripts/setup-bench
endif
	@scripts/build release halfstep_bench_worker
	@python3 benchmarks/bench.py $(if $(BENCH_PYTHON),--python $(BENCH_PYTHON)) $(BENCH_ARGS)

setup:
	@scripts/setup

build: setup
	@scripts/build release

docs:
	@scripts/setup --docs
	@scripts/docs

package:
	@scripts/setup --package
	@scripts/build release halfstep_command
	@cpack --config build/release/CPackConfig.cmake -B build/packages

format:
	@scripts/setup --ci
	@scripts/format

tidy:
	@scripts/setup --ci
	@scripts/tidy

clean:
	rm -rf build
