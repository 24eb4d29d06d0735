# make demo and make test are all a new machine needs: Swift, apt, and these install the rest.

SWIFT ?= swift
PACKAGES = libomp-dev libcairo2-dev fonts-dejavu-core libopenblas-dev pkgconf gcc
# Goldens are made with these versions of the reference; see Tests/Goldens.
REFERENCE = diffusers==0.42.1 torch numpy scipy mpmath gmpy2

.PHONY: help deps demo test goldens clean

help:
	@echo "make demo     sample handwritten digits, draw and measure; pictures in out/demo"
	@echo "make test     everything a contributor needs green"
	@echo "make goldens  record the golden vectors anew from diffusers (needs Python; downloads torch)"
	@echo "make clean    remove what the others made"

# Installs what is missing, and asks for no rights where nothing is.
deps:
	@missing=; for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		echo "installing$$missing"; \
		$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	fi

demo: deps
	$(SWIFT) run -c release --package-path Examples/Demo demo $(ARGUMENTS)

# The optimised build is what people run, and the one with checks is what finds their mistakes: both are tested.
test: deps
	Tests/check-c.sh
	$(SWIFT) build --build-tests -Xswiftc -warnings-as-errors
	$(SWIFT) test --skip-build
	$(SWIFT) test -c release -Xswiftc -enable-testing
	Tests/check-consumer.sh

goldens: out/reference/bin/python
	out/reference/bin/python Tests/Goldens/generate.py
	out/reference/bin/python Tests/Goldens/generate_noise.py

out/reference/bin/python:
	python3 -m venv out/reference
	out/reference/bin/pip install -q $(REFERENCE)

clean:
	rm -rf out .build .build-* Examples/*/.build
