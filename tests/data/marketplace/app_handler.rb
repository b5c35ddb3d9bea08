# In place of lib/community/app_handler.rb of marketplace-community: the VM is this machine, and
# $SSH runs what the harness would run over SSH, given as there between double quotes.
require 'open3'
require 'rspec'

class Execution
    attr_reader :stdout, :exitstatus

    def initialize(stdout, status)
        @stdout = stdout
        @exitstatus = status.exitstatus
    end

    def success?
        @exitstatus == 0
    end

    def expect_success
        raise "want success:\n#{@stdout}" unless success?
    end
end

class VM
    def ssh(cmd)
        Execution.new(*Open3.capture2e("#{ENV.fetch('SSH')} \"#{cmd}\""))
    end
end

RSpec.shared_context 'vm_handler' do
    before(:all) { @info = { :vm => VM.new } }
end
