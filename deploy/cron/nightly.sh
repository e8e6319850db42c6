#!/usr/bin/env bash
# Fetch studies, segment them, send the results: one run a night. README.md beside it says when to use it.
#
#   nightly.sh LIST
#
# LIST holds a study UID on each line. Every step resumes: what was fetched, segmented or sent is not repeated.
set -euo pipefail

SERVER=${SERVER:-PACS@192.0.2.20:104}
TITLE=${TITLE:-C3S3SEG}
MODEL=${MODEL:-left-atrium}
WORK=${WORK:-/var/lib/c3s3-seg/nightly}
PROGRAM=${PROGRAM:-/opt/c3s3-seg/bin/c3s3-seg}

if [ "$#" -ne 1 ]; then
  echo "usage: nightly.sh LIST" >&2
  exit 2
fi
list=$1
umask 077
mkdir -p "$WORK/scans" "$WORK/out" "$WORK/sent"

# The program ends in good order and with a code, not by the signal: without these the next step would begin.
trap 'echo "nightly.sh: stopped by SIGHUP" >&2; exit 129' HUP
trap 'echo "nightly.sh: stopped by SIGINT" >&2; exit 130' INT
trap 'echo "nightly.sh: stopped by SIGTERM" >&2; exit 143' TERM

# A run that takes longer than a day keeps the next one out.
exec 9>"$WORK/lock"
if ! flock --nonblock 9; then
  echo "the last run is still at work" >&2
  exit 0
fi

status=0
while IFS= read -r study || [ -n "$study" ]; do
  case $study in
    '' | '#'*) continue ;;
    *[!0-9.]*) echo "not a study UID in $list" >&2; status=1; continue ;;
  esac
  if [ ! -d "$WORK/scans/$study" ]; then
    "$PROGRAM" fetch "$SERVER" -o "$WORK/scans/$study.part" --study "$study" --title "$TITLE" </dev/null \
      && mv "$WORK/scans/$study.part" "$WORK/scans/$study" || status=1
  fi
done <"$list"

for folder in "$WORK"/scans/*/; do
  study=$(basename "$folder")
  case $study in *.part | '*') continue ;; esac
  "$PROGRAM" predict "$folder" -o "$WORK/out/$study" --model "$MODEL" --format dicom-seg --quiet || status=1
  for file in "$WORK/out/$study"/*.seg.dcm; do
    if [ ! -e "$file" ]; then
      continue
    fi
    # By its content: another model or another version makes another mask under the same name.
    note=$WORK/sent/$study-$(basename "$file")
    if ! sum=$(sha256sum <"$file"); then
      status=1
      continue
    fi
    if [ -e "$note" ] && [ "$(cat "$note")" = "$sum" ]; then
      continue
    fi
    # What cannot be noted, on a full disk, is sent once more the next time.
    "$PROGRAM" send "$SERVER" "$file" --title "$TITLE" && printf '%s\n' "$sum" >"$note" || status=1
  done
done
exit "$status"
