# Boots another kernel on this machine's own files, and runs a command there. Nothing is written to them: the guest writes to memory.
#
#   guest.sh KERNEL FOLDER SCRIPT
#
# KERNEL has boot/vmlinuz-* and lib/modules/*, as a distribution's package does after `dpkg-deb -x` and `depmod -b`; FOLDER is for what is made
# here; SCRIPT is run by the guest's bash as its first process. Emulated, so that it works on machines that are guests themselves; one CPU,
# since kernels that patch themselves while another runs have been seen to crash then.
set -eu
kernel=$1 folder=$2 script=$3
image=$(ls "$kernel"/boot/vmlinuz-*)
modules=$(echo "$kernel"/lib/modules/*)
mkdir -p "$folder"/start/{bin,proc,sys,dev,modules,lower,upper,root}
cp "$(command -v busybox)" "$folder/start/bin/"
# What it takes to see these files: 9p, and a writable layer above it.
for module in fs/netfs/netfs net/9p/9pnet net/9p/9pnet_virtio fs/9p/9p fs/overlayfs/overlay; do
    file=$modules/kernel/$module.ko
    if [ -e "$file.xz" ]; then
        xz -dc "$file.xz" > "$folder/start/modules/$(basename "$module").ko"
    elif [ -e "$file" ]; then
        cp "$file" "$folder/start/modules/"
    fi
done
cat > "$folder/start/init" <<INIT
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t devtmpfs none /dev
for module in netfs 9pnet 9pnet_virtio 9p overlay; do
    [ ! -e /modules/\$module.ko ] || \$b insmod /modules/\$module.ko
done
\$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose files /lower
\$b mount -t tmpfs none /upper
\$b mkdir /upper/files /upper/work
\$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work none /root
\$b mount --move /dev /root/dev
\$b mount -t proc none /root/proc
\$b mount -t sysfs none /root/sys
\$b mount -t cgroup2 none /root/sys/fs/cgroup
\$b mount -t bpf none /root/sys/fs/bpf
\$b mount -t tmpfs none /root/run
\$b mkdir -p /root/lib/modules
\$b mount -o bind /root$kernel/lib/modules /root/lib/modules
exec \$b switch_root /root /bin/bash $script
INIT
chmod +x "$folder/start/init"
(cd "$folder/start" && find . | busybox cpio -o -H newc 2> "$folder/cpio.log") > "$folder/start.cpio"
exec qemu-system-x86_64 -accel tcg -cpu max -m 3G -nodefaults -nographic -no-reboot -serial stdio \
    -kernel "$image" -initrd "$folder/start.cpio" -append "console=ttyS0 quiet panic=-1" \
    -fsdev local,id=files,path=/,security_model=none,readonly=on,multidevs=remap \
    -device virtio-9p-pci,fsdev=files,mount_tag=files
