# The cluster's own identity: it joins nodes to the subnet.
resource "azurerm_user_assigned_identity" "cluster" {
  name                = "${var.name}-cluster"
  resource_group_name = azurerm_resource_group.enginehouse.name
  location            = azurerm_resource_group.enginehouse.location
  tags                = var.tags
}

resource "azurerm_role_assignment" "cluster_network" {
  scope                = azurerm_virtual_network.enginehouse.id
  role_definition_name = "Network Contributor"
  principal_id         = azurerm_user_assigned_identity.cluster.principal_id
}

# Of the nodes: with it they pull images (images.tf).
resource "azurerm_user_assigned_identity" "nodes" {
  name                = "${var.name}-nodes"
  resource_group_name = azurerm_resource_group.enginehouse.name
  location            = azurerm_resource_group.enginehouse.location
  tags                = var.tags
}

resource "azurerm_role_assignment" "cluster_nodes" {
  scope                = azurerm_user_assigned_identity.nodes.id
  role_definition_name = "Managed Identity Operator"
  principal_id         = azurerm_user_assigned_identity.cluster.principal_id
}

resource "azurerm_kubernetes_cluster" "enginehouse" {
  name                      = var.name
  resource_group_name       = azurerm_resource_group.enginehouse.name
  location                  = azurerm_resource_group.enginehouse.location
  dns_prefix                = var.name
  kubernetes_version        = var.kubernetes_version
  sku_tier                  = "Standard"
  automatic_upgrade_channel = "patch"
  node_os_upgrade_channel   = "NodeImage"
  tags                      = var.tags

  # People come by Microsoft Entra; pods get tokens of Azure for their ServiceAccount.
  local_account_disabled            = true
  role_based_access_control_enabled = true
  oidc_issuer_enabled               = true
  workload_identity_enabled         = true
  run_command_enabled               = false
  image_cleaner_enabled             = true
  image_cleaner_interval_hours      = 168

  azure_active_directory_role_based_access_control {
    azure_rbac_enabled     = false
    admin_group_object_ids = var.cluster_admin_groups
  }

  api_server_access_profile {
    authorized_ip_ranges = concat(var.operator_cidrs, ["${azurerm_public_ip.outbound.ip_address}/32"])
  }

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.cluster.id]
  }

  kubelet_identity {
    client_id                 = azurerm_user_assigned_identity.nodes.client_id
    object_id                 = azurerm_user_assigned_identity.nodes.principal_id
    user_assigned_identity_id = azurerm_user_assigned_identity.nodes.id
  }

  default_node_pool {
    name                        = "system"
    temporary_name_for_rotation = "systemtmp"
    vm_size                     = var.system_pool.vm_size
    vnet_subnet_id              = azurerm_subnet.nodes.id
    zones                       = var.zones
    os_sku                      = "AzureLinux"
    auto_scaling_enabled        = true
    min_count                   = var.system_pool.min
    max_count                   = var.system_pool.max
    max_pods                    = 110
    host_encryption_enabled     = true
    tags                        = var.tags
    upgrade_settings {
      max_surge = "33%"
      # A job in hand has as long as its execution timeout.
      drain_timeout_in_minutes = 60
    }
  }

  # Cilium enforces NetworkPolicies: without a network policy engine every engine would reach everything.
  network_profile {
    network_plugin      = "azure"
    network_plugin_mode = "overlay"
    network_data_plane  = "cilium"
    network_policy      = "cilium"
    outbound_type       = "userAssignedNATGateway"
    pod_cidr            = var.pod_cidr
    service_cidr        = var.service_cidr
    dns_service_ip      = cidrhost(var.service_cidr, 10)
  }

  auto_scaler_profile {
    # Engines and runners keep an emptyDir, which must not hold a node for ever.
    skip_nodes_with_local_storage = false
    skip_nodes_with_system_pods   = true
    expander                      = "least-waste"
    # Longer than the longest grace of an engine: nodes that leave would kill jobs in hand.
    max_graceful_termination_sec = "3600"
  }

  # Its operator is in kube-system, not in keda: k8s/overlays/aks knows.
  workload_autoscaler_profile {
    keda_enabled = true
  }

  key_vault_secrets_provider {
    secret_rotation_enabled = true
  }

  web_app_routing {
    dns_zone_ids = []
  }

  lifecycle {
    # Azure changes both: the cluster autoscaler the one, automatic upgrades the other.
    ignore_changes = [default_node_pool[0].node_count, default_node_pool[0].orchestrator_version]
  }

  depends_on = [
    azurerm_nat_gateway_public_ip_association.outbound,
    azurerm_role_assignment.cluster_network,
    azurerm_role_assignment.cluster_nodes,
    azurerm_subnet_nat_gateway_association.nodes,
  ]
}

# Its sidecars drop all capabilities, as Pod Security `restricted` demands.
resource "azurerm_kubernetes_cluster_extension" "dapr" {
  name              = "dapr"
  cluster_id        = azurerm_kubernetes_cluster.enginehouse.id
  extension_type    = "Microsoft.Dapr"
  version           = var.dapr_version
  release_namespace = "dapr-system"
  configuration_settings = {
    "global.ha.enabled"                                   = "true"
    "global.logAsJson"                                    = "true"
    "dapr_sidecar_injector.sidecarDropALLCapabilities"    = "true"
    "dapr_sidecar_injector.sidecarReadOnlyRootFilesystem" = "true"
    "dapr_sidecar_injector.sidecarRunAsNonRoot"           = "true"
  }
}
