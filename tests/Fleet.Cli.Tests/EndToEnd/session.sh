# How a session of the README is replayed on a machine of its own (namespaces of the test, or a lab node):
#
#   session.sh WORK BUILD
#
# WORK holds the data of a registry and "steps", a script of the session's commands; BUILD the built program. Started in new namespaces of mounts and
# process ids, so that nothing stays of it whatever happens. Prints what the steps print, and then how the machine differs from before.
set -eu
work=$1 build=$2
dotnet=$(dirname "$(readlink -f "$(command -v dotnet)")")
mount --bind "$work" /mnt
mkdir -p /mnt/build /mnt/dotnet
mount --bind "$build" /mnt/build
mount --bind "$dotnet" /mnt/dotnet
# Network namespaces of other programs come and go: they are not seen here.
awk '$3 == "nsfs" { print $2 }' /proc/self/mounts | while read -r space; do umount "$space" 2>/dev/null || true; done
for folder in /tmp /run /root /dev/shm; do mount -t tmpfs private "$folder"; done
export HOME=/root FLEET_DATA=/mnt/fleet-data DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1
hostname box
cd /mnt
# What the microVMs said last is kept before all of it goes: without it nobody knows why one failed.
cat >fleet <<'END'
#!/bin/sh
[ "$1" != down ] || tail -n 15 "$FLEET_DATA"/host/vms/*/console.log "$FLEET_DATA"/host/vms/*/vmm.log >/mnt/words.trace 2>/dev/null
exec /mnt/dotnet/dotnet /mnt/build/cli/fleet.dll "$@"
END
chmod +x fleet
REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/mnt/registry/data docker-registry serve /mnt/registry.yml >/mnt/registry.log 2>&1 &
# What is there before is there when it answers.
for try in $(seq 300); do (: </dev/tcp/127.0.0.1/5000) 2>/dev/null && break; sleep 0.1; done
# A terminal of few words; what has ended must not take the session along.
export TERM=dumb
trap : PIPE
exec </dev/null 2>&1

# Where Fleet could leave something: processes, mounts, control groups, networks, files.
traces() {
  # The kernel's own, and the dead that nobody has asked for yet, have no words.
  local processes process
  processes=$(for process in /proc/[0-9]*; do { tr '\0' ' ' <"$process/cmdline" && echo; } 2>/dev/null; done)
  grep . <<<"$processes" | sort
  cat /proc/self/mounts
  find /sys/fs/cgroup -type d $groups | sort
  ip -o link | cut -d: -f2
  ip -o address | cut -d' ' -f2-7
  ip route
  nft list ruleset
  grep -H . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv[46]/conf/*/forwarding /proc/sys/net/ipv6/conf/*/accept_ra /proc/sys/net/ipv4/conf/*/route_localnet /proc/sys/net/ipv4/conf/all/accept_redirects
  # Kernels from 6.17 on.
  grep -Hs . /proc/sys/net/ipv6/conf/*/force_forwarding || true
  find /mnt /tmp /run /root /dev/shm -xdev -not -name '*.trace' -not -name registry.log -printf '%p %y %m %U\n' | sort
}

# Runs a command in a terminal and types each line when it is prompted for.
type_into() {
  local command=$1 line text
  shift
  coproc TERMINAL { exec script -qec "$command" /dev/null; }
  local in=${TERMINAL[1]} out=${TERMINAL[0]}
  for line; do
    IFS= read -r -d '#' -t 300 -u "$out" text || true
    printf '%s#' "$text"
    printf '%s\n' "$line" >&"$in"
  done
  cat <&"$out"
}

traces >/mnt/before.trace
# The default image, as if it had been made before.
mkdir "$FLEET_DATA"
ln -s /mnt/build/test-images "$FLEET_DATA/cache"
set +eu
. /mnt/steps
traces >/mnt/after.trace
printf '\036last words, and when each step began\n'
cat /mnt/words.trace /mnt/times.trace
printf '\036traces\n'
diff /mnt/before.trace /mnt/after.trace && echo as before
