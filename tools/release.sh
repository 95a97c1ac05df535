#!/bin/sh
# Makes a release of what is checked out: `tools/release.sh 0.2.0`. VERSION is the version; everything else repeats it.
set -eu
new=${1:-}
old=$(cat VERSION)
echo "$new" | grep -Eq '^[0-9]+\.[0-9]+\.[0-9]+$' || { echo "Name the release: make release VERSION=0.2.0" >&2; exit 1; }
test -z "$(git status --porcelain)" || { echo "There are changes that are not committed." >&2; exit 1; }
if git rev-parse --quiet --verify "refs/tags/v$new" >/dev/null; then echo "v$new exists." >&2; exit 1; fi
grep -q '^## Unreleased$' CHANGELOG.md || { echo "CHANGELOG.md has nothing under '## Unreleased'." >&2; exit 1; }

sed -i "s/^## Unreleased\$/## Unreleased\n\n## $new ($(date -u +%Y-%m-%d))/" CHANGELOG.md
files=$(git grep -lF "$old" -- VERSION '*/pyproject.toml' '*pyproject.toml.jinja' clients/python/ameide_client/connection.py \
    clients/typescript/package.json helm/ameide/Chart.yaml helm/ameide/examples/production.yaml)
printf '%s\n' "$files" | while read -r file; do
    sed -i "s/\(^\|[^0-9.]\)$(echo "$old" | sed 's/\./\\./g')\([^0-9.]\|\$\)/\1$new\2/g" "$file"
done
git commit --quiet --all --message "Release $new"
git tag --annotate "v$new" --message "Release $new"
echo "v$new is tagged. Push it with: git push origin HEAD v$new"
