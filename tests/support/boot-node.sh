#!/bin/sh
# boot-node.sh SETUP_SCRIPT: a real systemd as PID 1 of its own namespaces, on a throw-away overlay of this machine's /.
#
# `tests/support/lab.py` runs it as root inside a new network, mount, PID, UTS, IPC and cgroup namespace and names in the
# environment NODE (host name), BASE (empty folder for the overlay) and SIZE (of its file system).
# All that it mounts lives in its mount namespace and goes with the last process in it.
set -e
hostname "$NODE"
mount --make-rprivate /
mount -t tmpfs -o "size=$SIZE,mode=755" tmpfs "$BASE"
mkdir "$BASE/up" "$BASE/work" "$BASE/m"
mount -t overlay overlay -o "lowerdir=/,upperdir=$BASE/up,workdir=$BASE/work" "$BASE/m"
cd "$BASE/m"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev             # not this machine's: journald makes /dev/log
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 cg sys/fs/cgroup
    for c in cpu cpuacct memory pids; do
        mkdir -p sys/fs/cgroup/$c
        mount -t cgroup -o $c cgroup sys/fs/cgroup/$c
    done
    mkdir -p sys/fs/cgroup/systemd sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
fi
# Only what a test installs shall start, and what edge.target names: not this machine's own services.
rm -rf etc/systemd/system/*.wants lib/systemd/system/*.target.wants/*
mkdir -p etc/systemd/system/multi-user.target.wants
rm -f etc/pip.conf
tr -d - < proc/sys/kernel/random/uuid > etc/machine-id   # an empty one would enable all that the presets name
printf '%s\n' "$NODE" > etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$NODE" > etc/hosts
: > etc/resolv.conf
cat > etc/systemd/system/edge.target <<'UNIT'
[Unit]
Wants=node-ssh.service dbus.service systemd-journald.service multi-user.target
AllowIsolate=yes
UNIT
cat > etc/systemd/system/node-ssh.service <<'UNIT'
[Unit]
DefaultDependencies=no
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -e -h /etc/ssh/node_key -o UsePAM=no -o PidFile=none -o MaxStartups=200 -o MaxSessions=200 -o UseDNS=no
Restart=always
UNIT
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot . /bin/sh -e < "$1"
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /lib/systemd/systemd --system --unit=edge.target --log-target=null
