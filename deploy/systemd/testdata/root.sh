#!/bin/sh
# A Debian root with systemd in it, and nothing else of the machine: root.sh make DIR, root.sh boot DIR CGROUP
# It is started in mount, process, network, host name and IPC namespaces of its own. Whatever is run of the new root, and systemd above
# all, is run after the machine's own root is out of sight: systemd-tmpfiles empties the /tmp that it finds.
# DIR has first/ (packages unpacked, by debootstrap --foreign), second/ (what configuring them changed) and room/, a place to mount at.
set -eu
what=$1 dir=$2
case $what in boot)
	# Once in this group, once more for a cgroup namespace whose root it is.
	if [ "$#" = 3 ]; then
		echo 0 >"$3/cgroup.procs"
		exec unshare --cgroup sh "$0" boot "$dir"
	fi
	;;
esac

mount --make-rprivate /
root=$dir/room/root
case $what in
make)
	# volatile: hundreds of calls of fsync are for nothing here.
	mkdir "$root" "$dir/second" "$dir/work"
	mount -t overlay -o "volatile,lowerdir=$dir/first,upperdir=$dir/second,workdir=$dir/work" overlay "$root"
	# In what it takes for a container, debootstrap has made a link to the machine's.
	rm -f "$root/proc" 2>/dev/null || true
	mkdir -p "$root/proc" "$root/sys"
	: >"$root/.spillway-test-root"
	;;
boot)
	mount -t tmpfs -o mode=755 tmpfs "$dir/room"
	mkdir "$root" "$dir/room/upper" "$dir/room/work"
	mount -t overlay -o "lowerdir=$dir/second:$dir/first,upperdir=$dir/room/upper,workdir=$dir/room/work" overlay "$root"
	;;
esac

# What is the machine's own can be read at most: of /proc/sys only the network's settings, which are the namespace's, can be written.
for d in proc sys dev run tmp; do [ ! -L "$root/$d" ] || { echo "$root/$d is a link"; exit 1; }; done
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for f in null zero full random urandom tty; do
	: >"$root/dev/$f"
	mount --bind "/dev/$f" "$root/dev/$f"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
[ "$what" = make ] || mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
ip link set lo up

cd "$root"
mkdir run/machine
pivot_root . run/machine
cd /
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
umount -l /run/machine
rmdir /run/machine
roots=$(grep '^[0-9]* [0-9]* [^ ]* [^ ]* / ' /proc/self/mountinfo)
if [ ! -e /.spillway-test-root ] || [ "${roots#* - overlay }" = "$roots" ] || [ "$(echo "$roots" | wc -l)" != 1 ]; then
	echo "the new root is not the root: nothing is run"
	exit 1
fi

case $what in
make)
	/debootstrap/debootstrap --second-stage
	rm -f /var/cache/apt/archives/*.deb
	# Nothing that asks for hardware, looks after the machine's clock, settings or audit, or comes up by the hour.
	for unit in systemd-sysctl.service systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service systemd-networkd.service \
		systemd-timesyncd.service systemd-journald-audit.socket modprobe@.service getty.target dev-hugepages.mount dev-mqueue.mount \
		sys-fs-fuse-connections.mount apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer; do
		ln -sf /dev/null "/etc/systemd/system/$unit"
	done
	;;
boot)
	hostname booted
	echo ready
	exec env -i PATH="$PATH" container=spillway-test setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-sys_boot,-syslog,-audit_control,-audit_read \
		/lib/systemd/systemd --log-target=journal --show-status=no
	;;
esac
