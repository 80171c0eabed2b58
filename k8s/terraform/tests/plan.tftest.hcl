# terraform test: what is planned, without an account of Azure.
mock_provider "azurerm" {
  mock_resource "azurerm_kubernetes_cluster" {
    defaults = {
      web_app_routing = {
        web_app_routing_identity = [{ client_id = "", object_id = "00000000-0000-0000-0000-000000000001", user_assigned_identity_id = "" }]
      }
    }
  }
}

variables {
  subscription_id      = "00000000-0000-0000-0000-000000000000"
  suffix               = "x7k2"
  host                 = "enginehouse.example"
  operator_cidrs       = ["203.0.113.7/32"]
  cluster_admin_groups = ["00000000-0000-0000-0000-000000000002"]
}

run "the_ledger_and_objects_have_addresses_of_their_own" {
  command = plan
  assert {
    condition     = local.overlay["LEDGER_CIDR"] == "10.224.16.0/24" && local.overlay["OBJECTS_CIDR"] == "10.224.17.0/24"
    error_message = "The overlay's NetworkPolicies would lead elsewhere."
  }
  assert {
    condition     = length(azurerm_managed_redis.broker) == 0 && length(azurerm_servicebus_namespace.broker) == 0
    error_message = "No broker of Azure's is made unless it is asked for."
  }
}

run "engines_bear_the_taints_of_their_pool" {
  command = plan
  variables {
    tenant_pools = {
      tenants = {}
      gpu     = { vm_size = "Standard_NC24ads_A100_v4", gpu = true }
      cheap   = { spot = true }
      sandbox = { isolated = true }
    }
  }
  assert {
    condition = alltrue([
      for name, pool in azurerm_kubernetes_cluster_node_pool.tenants :
      toset([for taint in pool.node_taints : split(":", split("=", taint)[0])[0]]) == toset([for one in local.placements[name].tolerations : one.key])
    ])
    error_message = "Placement and taints differ."
  }
  assert {
    condition = alltrue([
      for name, pool in azurerm_kubernetes_cluster_node_pool.tenants :
      pool.node_labels["enginehouse.dev/pool"] == local.placements[name].node_selector["enginehouse.dev/pool"]
    ])
    error_message = "Placement and labels differ."
  }
}

run "brokers_of_azure_are_private" {
  command = plan
  variables {
    prepared_brokers = ["managed_redis", "service_bus"]
  }
  assert {
    condition     = toset(keys(azurerm_private_endpoint.private)) == toset(["blob", "redis", "registry", "servicebus", "vault"])
    error_message = "A server of Azure's has no private address."
  }
}

run "the_internet_is_no_operator" {
  command = plan
  variables {
    operator_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.operator_cidrs]
}

run "a_pool_of_virtual_machines_has_no_gpu" {
  command = plan
  variables {
    tenant_pools = { both = { gpu = true, isolated = true } }
  }
  expect_failures = [var.tenant_pools]
}
