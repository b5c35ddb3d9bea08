# For those who build with one-apps: the folder goes to apps-code/community-apps/packer/flower of
# marketplace-community, with the agent's package for Debian 12 in it as flower-agent.deb, and
# "flower" joins SERVICES in Makefile.config. The base image is one-apps' own Debian 12, which has
# one-context already.

source "null" "null" { communicator = "none" }

build {
  sources = ["source.null.null"]

  provisioner "shell-local" {
    inline = [
      "mkdir -p ${var.input_dir}/context",
      "${var.input_dir}/gen_context > ${var.input_dir}/context/context.sh",
      "mkisofs -o ${var.input_dir}/${var.appliance_name}-context.iso -V CONTEXT -J -R ${var.input_dir}/context",
    ]
  }
}

source "qemu" "flower" {
  cpus        = 2
  memory      = 4096
  accelerator = "kvm"

  iso_url      = "../one-apps/export/debian12.qcow2"
  iso_checksum = "none"

  headless = var.headless

  disk_image       = true
  disk_cache       = "unsafe"
  disk_interface   = "virtio"
  disk_size        = "10240"
  net_device       = "virtio-net"
  format           = "qcow2"
  disk_compression = false

  output_directory = var.output_dir

  qemuargs = [
    ["-cpu", "host"],
    ["-cdrom", "${var.input_dir}/${var.appliance_name}-context.iso"],
    ["-netdev", "user,id=net0,hostfwd=tcp::{{ .SSHHostPort }}-:22"],
    ["-device", "virtio-net-pci,netdev=net0,mac=00:11:22:33:44:55"],
  ]

  ssh_username     = "root"
  ssh_password     = "opennebula"
  ssh_timeout      = "900s"
  shutdown_command = "poweroff"
  vm_name          = var.appliance_name
}

build {
  sources = ["source.qemu.flower"]

  provisioner "file" {
    source      = "${var.input_dir}/flower-agent.deb"
    destination = "/root/flower-agent.deb"
  }

  provisioner "shell" {
    scripts = ["${var.input_dir}/install.sh"]
  }

  post-processor "shell-local" {
    execute_command = ["bash", "-c", "{{.Vars}} {{.Script}}"]
    environment_vars = [
      "OUTPUT_DIR=${var.output_dir}",
      "APPLIANCE_NAME=${var.appliance_name}",
    ]
    scripts = ["../one-apps/packer/postprocess.sh"]
  }
}
