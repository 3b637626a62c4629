#!/bin/busybox sh
# PID 1 of a lab node, and what it runs. Called by the kernel without arguments it sets the machine up and becomes
# busybox init, which reaps orphans and keeps the two services of /etc/inittab alive:
#   /init control   carries out the commands that the outer machine sends over the second serial port
#   /init agent     the host agent, when the node has one
#
# The outer machine's file system is the lower layer of an overlay: every path reads as it does outside, and what is
# written stays in this node's memory. The one folder shared for writing is the exchange, which carries results out.

root=/mnt/root
inside=/run/fleet-lab/exchange   # the exchange as commands see it, below $root
exchange=$root$inside
export PATH=/bin

fail() {
  echo "FLEET-LAB failed $*"
  # Whole at once: the outer machine reads it as soon as it is there.
  [ ! -d "$exchange" ] || { echo "$*" >"$exchange/why" && mv "$exchange/why" "$exchange/failed"; }
  # The outer machine reads the serial log when the exchange is not there.
  poweroff -f
}

load_modules() {
  while read -r module options; do
    # $options is a list of words.
    # shellcheck disable=SC2086
    insmod "/$module" $options || fail "module_not_loaded $module"
  done </fleet/modules
}

mount_root() {
  mkdir -p /mnt/outer /mnt/own "$root"
  mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 outer /mnt/outer || fail "outer_not_mounted"
  mount -t tmpfs -o mode=755 own /mnt/own
  mkdir /mnt/own/upper /mnt/own/work
  mount -t overlay -o lowerdir=/mnt/outer,upperdir=/mnt/own/upper,workdir=/mnt/own/work root "$root" || fail "root_not_mounted"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t devtmpfs dev "$root/dev"
  mkdir -p "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o mode=620,ptmxmode=666 devpts "$root/dev/pts"
  mount -t tmpfs shm "$root/dev/shm"
  mount -t tmpfs -o mode=755 run "$root/run"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  echo "+cpu +memory +io +pids" >"$root/sys/fs/cgroup/cgroup.subtree_control"
  mkdir -p "$exchange"
  mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=512000 exchange "$exchange" || fail "exchange_not_mounted"
}

# QEMU's user network: it answers as 10.0.2.2 for the outer machine's loopback.
bring_up_network() {
  ip link set lo up
  ip address add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2 || fail "no_network"
}

# Makes a VM and keeps it for ever. KVM turns SVM on, on every CPU, for the first VM and off behind the last; under
# emulation one such turn in about a hundred locks all CPUs up. With this VM there is never another turn.
# 0xAE01 is KVM_CREATE_VM; perl is in every Debian (perl-base).
hold_kvm() {
  chroot "$root" perl -e '
    open(my $kvm, "+<", "/dev/kvm") or die "/dev/kvm: $!\n";
    ioctl($kvm, 0xAE01, 0) or die "KVM_CREATE_VM: $!\n";
    exit 0 if fork;
    sleep;
  ' </dev/null || fail "no_kvm"
  [ "$(cat /sys/module/kvm_amd/parameters/npt)" = Y ] || fail "no_nested_paging"
}

# khugepaged gathers pages of running guests into huge ones behind their backs, and interrupts every CPU for each. A node
# was seen locked up in it ("soft lockup ... khugepaged"); whether nodes lock up less without it has not been measured.
# What a guest touches for the first time still gets huge pages at once.
calm_khugepaged() {
  cd /sys/kernel/mm/transparent_hugepage/khugepaged || return
  echo 4294967295 >scan_sleep_millisecs
  echo 4294967295 >alloc_sleep_millisecs
  echo 1 >pages_to_scan
  cd /
}

set_up() {
  /bin/busybox --install -s /bin
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount -t devtmpfs dev /dev
  exec </dev/console >/dev/console 2>&1
  load_modules
  mount_root
  bring_up_network
  calm_khugepaged
  hold_kvm
  ulimit -n 65536
  {
    echo "::respawn:/init control"
    [ ! -e "$exchange/agent.sh" ] || echo "::respawn:/init agent"
  } >/etc/inittab
  exec init
}

# Runs one command in a control group of its own, so that `end` finds all its processes.
run_command() {
  group=$root/sys/fs/cgroup/command-$1
  mkdir -p "$group"
  (
    echo 0 >"$group/cgroup.procs"
    exec setsid chroot "$root" /bin/sh "$inside/$1.sh"
  ) </dev/null >"$exchange/$1.out" 2>"$exchange/$1.err"
  echo $? >"$exchange/$1.exit"
  # Stays when the command left processes behind.
  rmdir "$group" 2>/dev/null
}

control() {
  exec </dev/ttyS1
  stty raw -echo
  # Only now: what comes in over a serial port that nobody has opened is lost.
  if [ ! -e "$exchange/ready" ]; then
    read -r uptime _ </proc/uptime
    echo "FLEET-LAB ready $(hostname) after $uptime s" >/dev/console
    echo "$uptime" >"$exchange/ready"
  fi
  while read -r verb id; do
    case $verb in
      # Forked twice: init reaps it.
      run) (run_command "$id" &) ;;
      end) echo 1 >"$root/sys/fs/cgroup/command-$id/cgroup.kill" ;;
      off) poweroff -f ;;
    esac
  done
}

agent() {
  echo "--- agent starts, $(date -u +%Y-%m-%dT%H:%M:%SZ)" >>"$exchange/agent.log"
  exec chroot "$root" /bin/sh "$inside/agent.sh" </dev/null >>"$exchange/agent.log" 2>&1
}

case ${1-} in
  '') set_up ;;
  control) control ;;
  agent) agent ;;
esac
