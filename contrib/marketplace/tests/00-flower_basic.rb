require_relative '../../../lib/community/app_handler'

# One VM with FLOWER_ROLE=server, without TOKEN: a SuperLink that works by itself. The harness puts
# each command between double quotes and gives it 200 s.
describe 'Appliance Certification' do
    include_context('vm_handler')

    it 'has no failed unit that Flower needs' do
        @info[:vm].ssh('systemctl is-active docker flower-agent').expect_success
    end

    it 'becomes ready without OneGate' do
        waits = 4.times.any? do
            @info[:vm].ssh('flower-agent status --wait --timeout 3m').success?
        end

        expect(waits).to be(true), @info[:vm].ssh('flower-agent status').stdout
    end

    it 'accepts its context' do
        execution = @info[:vm].ssh('flower-agent check')

        expect(execution.success?).to be(true), execution.stdout
        expect(execution.stdout).to include('the agent would start as superlink')
    end

    it 'has nothing left to do' do
        expect(@info[:vm].ssh('flower-agent plan').stdout).to include('nothing to do')
    end

    it 'shows the command that reaches its Control API' do
        expect(@info[:vm].ssh('flower-agent status').stdout).to include('ssh -N -L')
    end

    it 'made a CA of its own' do
        @info[:vm].ssh('flower-agent tls show').expect_success
    end
end
