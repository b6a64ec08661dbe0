//! The actions of the services that coffer has, whether this build implements the operation or not. A pattern of one of these
//! services that matches none of its actions is misspelt. Actions of other services are not known, and never requested.
//!
//! Sources: Service Authorization Reference, "Actions, resources, and condition keys" of each service; the services' API models.

use super::kind::Kind;
use super::pattern::wild;

/// The export of a volume's plaintext data key (`coffer volume export-key`): coffer's own action, which AWS does not have.
pub const EXPORT_VOLUME_KEY: &str = "ExportVolumeKey";

/// Actions of `kms`, and coffer's own: 57.
const KMS: &str = "\
    CancelKeyDeletion ConnectCustomKeyStore CreateAlias CreateCustomKeyStore CreateGrant CreateKey Decrypt DeleteAlias \
    DeleteCustomKeyStore DeleteImportedKeyMaterial DeriveSharedSecret DescribeCustomKeyStores DescribeKey DisableKey \
    DisableKeyRotation DisconnectCustomKeyStore EnableKey EnableKeyRotation Encrypt ExportVolumeKey GenerateDataKey \
    GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext GenerateMac GenerateRandom \
    GetKeyLastUsage GetKeyPolicy GetKeyRotationStatus GetParametersForImport GetPublicKey ImportKeyMaterial ListAliases \
    ListGrants ListKeyPolicies ListKeyRotations ListKeys ListResourceTags ListRetirableGrants PutKeyPolicy ReEncryptFrom \
    ReEncryptTo ReplicateKey RetireGrant RevokeGrant RotateKeyOnDemand ScheduleKeyDeletion Sign SynchronizeMultiRegionKey \
    TagResource UntagResource UpdateAlias UpdateCustomKeyStore UpdateKeyDescription UpdatePrimaryRegion Verify VerifyMac";

/// Actions of `cloudtrail`: 60.
const CLOUDTRAIL: &str = "\
    AddTags CancelQuery CreateChannel CreateDashboard CreateEventDataStore CreateTrail DeleteChannel DeleteDashboard \
    DeleteEventDataStore DeleteResourcePolicy DeleteTrail DeregisterOrganizationDelegatedAdmin DescribeQuery \
    DescribeTrails DisableFederation EnableFederation GenerateQuery GetChannel GetDashboard GetEventConfiguration \
    GetEventDataStore GetEventSelectors GetImport GetInsightSelectors GetQueryResults GetResourcePolicy GetTrail \
    GetTrailStatus ListChannels ListDashboards ListEventDataStores ListImportFailures ListImports ListInsightsData \
    ListInsightsMetricData ListPublicKeys ListQueries ListTags ListTrails LookupEvents PutEventConfiguration \
    PutEventSelectors PutInsightSelectors PutResourcePolicy RegisterOrganizationDelegatedAdmin RemoveTags \
    RestoreEventDataStore SearchSampleQueries StartDashboardRefresh StartEventDataStoreIngestion StartImport StartLogging \
    StartQuery StopEventDataStoreIngestion StopImport StopLogging UpdateChannel UpdateDashboard UpdateEventDataStore \
    UpdateTrail";

/// Actions of `ebs`: 6.
const EBS: &str = "\
    CompleteSnapshot GetSnapshotBlock ListChangedBlocks ListSnapshotBlocks PutSnapshotBlock StartSnapshot";

/// Actions of `ec2`: 765.
const EC2: &str = "\
    AcceptAddressTransfer AcceptCapacityReservationBillingOwnership AcceptReservedInstancesExchangeQuote \
    AcceptTransitGatewayClientVpnAttachment AcceptTransitGatewayMulticastDomainAssociations \
    AcceptTransitGatewayPeeringAttachment AcceptTransitGatewayVpcAttachment AcceptVpcEndpointConnections \
    AcceptVpcPeeringConnection AdvertiseByoipCidr AllocateAddress AllocateHosts AllocateIpamPoolCidr \
    ApplySecurityGroupsToClientVpnTargetNetwork AssignIpv6Addresses AssignPrivateIpAddresses \
    AssignPrivateNatGatewayAddress AssociateAddress AssociateCapacityReservationBillingOwner \
    AssociateClientVpnTargetNetwork AssociateDhcpOptions AssociateEnclaveCertificateIamRole AssociateIamInstanceProfile \
    AssociateInstanceEventWindow AssociateIpamByoasn AssociateIpamResourceDiscovery AssociateNatGatewayAddress \
    AssociateRouteServer AssociateRouteTable AssociateSecurityGroupVpc AssociateSubnetCidrBlock \
    AssociateTransitGatewayMulticastDomain AssociateTransitGatewayPolicyTable AssociateTransitGatewayRouteTable \
    AssociateTrunkInterface AssociateVpcCidrBlock AttachClassicLinkVpc AttachInternetGateway AttachNetworkInterface \
    AttachVerifiedAccessTrustProvider AttachVolume AttachVpnGateway AuthorizeClientVpnIngress AuthorizeSecurityGroupEgress \
    AuthorizeSecurityGroupIngress BundleInstance CancelBundleTask CancelCapacityReservation \
    CancelCapacityReservationFleets CancelConversionTask CancelDeclarativePoliciesReport CancelExportTask \
    CancelImageLaunchPermission CancelImportTask CancelReservedInstancesListing CancelSpotFleetRequests \
    CancelSpotInstanceRequests ConfirmProductInstance CopyFpgaImage CopyImage CopySnapshot CopyVolumes \
    CreateCapacityManagerDataExport CreateCapacityReservation CreateCapacityReservationBySplitting \
    CreateCapacityReservationFleet CreateCarrierGateway CreateClientVpnEndpoint CreateClientVpnRoute CreateCoipCidr \
    CreateCoipPool CreateCustomerGateway CreateDefaultSubnet CreateDefaultVpc CreateDelegateMacVolumeOwnershipTask \
    CreateDhcpOptions CreateEgressOnlyInternetGateway CreateFleet CreateFlowLogs CreateFpgaImage CreateImage \
    CreateImageUsageReport CreateInstanceConnectEndpoint CreateInstanceEventWindow CreateInstanceExportTask \
    CreateInternetGateway CreateInterruptibleCapacityReservationAllocation CreateIpam \
    CreateIpamExternalResourceVerificationToken CreateIpamPolicy CreateIpamPool CreateIpamPrefixListResolver \
    CreateIpamPrefixListResolverTarget CreateIpamResourceDiscovery CreateIpamScope CreateKeyPair CreateLaunchTemplate \
    CreateLaunchTemplateVersion CreateLocalGatewayRoute CreateLocalGatewayRouteTable \
    CreateLocalGatewayRouteTableVirtualInterfaceGroupAssociation CreateLocalGatewayRouteTableVpcAssociation \
    CreateLocalGatewayVirtualInterface CreateLocalGatewayVirtualInterfaceGroup \
    CreateMacSystemIntegrityProtectionModificationTask CreateManagedPrefixList CreateNatGateway CreateNetworkAcl \
    CreateNetworkAclEntry CreateNetworkInsightsAccessScope CreateNetworkInsightsPath CreateNetworkInterface \
    CreateNetworkInterfacePermission CreatePlacementGroup CreatePublicIpv4Pool CreateReplaceRootVolumeTask \
    CreateReservedInstancesListing CreateRestoreImageTask CreateRoute CreateRouteServer CreateRouteServerEndpoint \
    CreateRouteServerPeer CreateRouteTable CreateSecondaryNetwork CreateSecondarySubnet CreateSecurityGroup CreateSnapshot \
    CreateSnapshots CreateSpotDatafeedSubscription CreateStoreImageTask CreateSubnet CreateSubnetCidrReservation \
    CreateTags CreateTrafficMirrorFilter CreateTrafficMirrorFilterRule CreateTrafficMirrorSession \
    CreateTrafficMirrorTarget CreateTransitGateway CreateTransitGatewayConnect CreateTransitGatewayConnectPeer \
    CreateTransitGatewayMeteringPolicy CreateTransitGatewayMeteringPolicyEntry CreateTransitGatewayMulticastDomain \
    CreateTransitGatewayPeeringAttachment CreateTransitGatewayPolicyTable CreateTransitGatewayPrefixListReference \
    CreateTransitGatewayRoute CreateTransitGatewayRouteTable CreateTransitGatewayRouteTableAnnouncement \
    CreateTransitGatewayVpcAttachment CreateVerifiedAccessEndpoint CreateVerifiedAccessGroup CreateVerifiedAccessInstance \
    CreateVerifiedAccessTrustProvider CreateVolume CreateVpc CreateVpcBlockPublicAccessExclusion \
    CreateVpcEncryptionControl CreateVpcEndpoint CreateVpcEndpointConnectionNotification \
    CreateVpcEndpointServiceConfiguration CreateVpcPeeringConnection CreateVpnConcentrator CreateVpnConnection \
    CreateVpnConnectionRoute CreateVpnGateway DeleteCapacityManagerDataExport DeleteCarrierGateway DeleteClientVpnEndpoint \
    DeleteClientVpnRoute DeleteCoipCidr DeleteCoipPool DeleteCustomerGateway DeleteDhcpOptions \
    DeleteEgressOnlyInternetGateway DeleteFleets DeleteFlowLogs DeleteFpgaImage DeleteImageUsageReport \
    DeleteInstanceConnectEndpoint DeleteInstanceEventWindow DeleteInternetGateway DeleteIpam \
    DeleteIpamExternalResourceVerificationToken DeleteIpamPolicy DeleteIpamPool DeleteIpamPrefixListResolver \
    DeleteIpamPrefixListResolverTarget DeleteIpamResourceDiscovery DeleteIpamScope DeleteKeyPair DeleteLaunchTemplate \
    DeleteLaunchTemplateVersions DeleteLocalGatewayRoute DeleteLocalGatewayRouteTable \
    DeleteLocalGatewayRouteTableVirtualInterfaceGroupAssociation DeleteLocalGatewayRouteTableVpcAssociation \
    DeleteLocalGatewayVirtualInterface DeleteLocalGatewayVirtualInterfaceGroup DeleteManagedPrefixList DeleteNatGateway \
    DeleteNetworkAcl DeleteNetworkAclEntry DeleteNetworkInsightsAccessScope DeleteNetworkInsightsAccessScopeAnalysis \
    DeleteNetworkInsightsAnalysis DeleteNetworkInsightsPath DeleteNetworkInterface DeleteNetworkInterfacePermission \
    DeletePlacementGroup DeletePublicIpv4Pool DeleteQueuedReservedInstances DeleteRoute DeleteRouteServer \
    DeleteRouteServerEndpoint DeleteRouteServerPeer DeleteRouteTable DeleteSecondaryNetwork DeleteSecondarySubnet \
    DeleteSecurityGroup DeleteSnapshot DeleteSpotDatafeedSubscription DeleteSubnet DeleteSubnetCidrReservation DeleteTags \
    DeleteTrafficMirrorFilter DeleteTrafficMirrorFilterRule DeleteTrafficMirrorSession DeleteTrafficMirrorTarget \
    DeleteTransitGateway DeleteTransitGatewayClientVpnAttachment DeleteTransitGatewayConnect \
    DeleteTransitGatewayConnectPeer DeleteTransitGatewayMeteringPolicy DeleteTransitGatewayMeteringPolicyEntry \
    DeleteTransitGatewayMulticastDomain DeleteTransitGatewayPeeringAttachment DeleteTransitGatewayPolicyTable \
    DeleteTransitGatewayPrefixListReference DeleteTransitGatewayRoute DeleteTransitGatewayRouteTable \
    DeleteTransitGatewayRouteTableAnnouncement DeleteTransitGatewayVpcAttachment DeleteVerifiedAccessEndpoint \
    DeleteVerifiedAccessGroup DeleteVerifiedAccessInstance DeleteVerifiedAccessTrustProvider DeleteVolume DeleteVpc \
    DeleteVpcBlockPublicAccessExclusion DeleteVpcEncryptionControl DeleteVpcEndpointConnectionNotifications \
    DeleteVpcEndpointServiceConfigurations DeleteVpcEndpoints DeleteVpcPeeringConnection DeleteVpnConcentrator \
    DeleteVpnConnection DeleteVpnConnectionRoute DeleteVpnGateway DeprovisionByoipCidr DeprovisionIpamByoasn \
    DeprovisionIpamPoolCidr DeprovisionPublicIpv4PoolCidr DeregisterImage DeregisterInstanceEventNotificationAttributes \
    DeregisterTransitGatewayMulticastGroupMembers DeregisterTransitGatewayMulticastGroupSources DescribeAccountAttributes \
    DescribeAddressTransfers DescribeAddresses DescribeAddressesAttribute DescribeAggregateIdFormat \
    DescribeAvailabilityZones DescribeAwsNetworkPerformanceMetricSubscriptions DescribeBundleTasks DescribeByoipCidrs \
    DescribeCapacityBlockExtensionHistory DescribeCapacityBlockExtensionOfferings DescribeCapacityBlockOfferings \
    DescribeCapacityBlockStatus DescribeCapacityBlocks DescribeCapacityManagerDataExports \
    DescribeCapacityReservationBillingRequests DescribeCapacityReservationFleets DescribeCapacityReservationTopology \
    DescribeCapacityReservations DescribeCarrierGateways DescribeClassicLinkInstances DescribeClientVpnAuthorizationRules \
    DescribeClientVpnConnections DescribeClientVpnEndpoints DescribeClientVpnRoutes DescribeClientVpnTargetNetworks \
    DescribeCoipPools DescribeConversionTasks DescribeCustomerGateways DescribeDeclarativePoliciesReports \
    DescribeDhcpOptions DescribeEgressOnlyInternetGateways DescribeElasticGpus DescribeExportImageTasks \
    DescribeExportTasks DescribeFastLaunchImages DescribeFastSnapshotRestores DescribeFleetHistory DescribeFleetInstances \
    DescribeFleets DescribeFlowLogs DescribeFpgaImageAttribute DescribeFpgaImages DescribeHostReservationOfferings \
    DescribeHostReservations DescribeHosts DescribeIamInstanceProfileAssociations DescribeIdFormat \
    DescribeIdentityIdFormat DescribeImageAttribute DescribeImageReferences DescribeImageUsageReportEntries \
    DescribeImageUsageReports DescribeImages DescribeImportImageTasks DescribeImportSnapshotTasks \
    DescribeInstanceAttribute DescribeInstanceConnectEndpoints DescribeInstanceCreditSpecifications \
    DescribeInstanceEventNotificationAttributes DescribeInstanceEventWindows DescribeInstanceImageMetadata \
    DescribeInstanceSqlHaHistoryStates DescribeInstanceSqlHaStates DescribeInstanceStatus DescribeInstanceTopology \
    DescribeInstanceTypeOfferings DescribeInstanceTypes DescribeInstances DescribeInternetGateways DescribeIpamByoasn \
    DescribeIpamExternalResourceVerificationTokens DescribeIpamPolicies DescribeIpamPoolAllocations DescribeIpamPools \
    DescribeIpamPrefixListResolverTargets DescribeIpamPrefixListResolvers DescribeIpamResourceDiscoveries \
    DescribeIpamResourceDiscoveryAssociations DescribeIpamScopes DescribeIpams DescribeIpv6Pools DescribeKeyPairs \
    DescribeLaunchTemplateVersions DescribeLaunchTemplates DescribeLocalGatewayRouteTableVirtualInterfaceGroupAssociations \
    DescribeLocalGatewayRouteTableVpcAssociations DescribeLocalGatewayRouteTables \
    DescribeLocalGatewayVirtualInterfaceGroups DescribeLocalGatewayVirtualInterfaces DescribeLocalGateways \
    DescribeLockedSnapshots DescribeMacHosts DescribeMacModificationTasks DescribeManagedPrefixLists \
    DescribeMovingAddresses DescribeNatGateways DescribeNetworkAcls DescribeNetworkInsightsAccessScopeAnalyses \
    DescribeNetworkInsightsAccessScopes DescribeNetworkInsightsAnalyses DescribeNetworkInsightsPaths \
    DescribeNetworkInterfaceAttribute DescribeNetworkInterfacePermissions DescribeNetworkInterfaces DescribeOutpostLags \
    DescribePlacementGroups DescribePrefixLists DescribePrincipalIdFormat DescribePublicIpv4Pools DescribeRegions \
    DescribeReplaceRootVolumeTasks DescribeReservedInstances DescribeReservedInstancesListings \
    DescribeReservedInstancesModifications DescribeReservedInstancesOfferings DescribeRouteServerEndpoints \
    DescribeRouteServerPeers DescribeRouteServers DescribeRouteTables DescribeScheduledInstanceAvailability \
    DescribeScheduledInstances DescribeSecondaryInterfaces DescribeSecondaryNetworks DescribeSecondarySubnets \
    DescribeSecurityGroupReferences DescribeSecurityGroupRules DescribeSecurityGroupVpcAssociations DescribeSecurityGroups \
    DescribeServiceLinkVirtualInterfaces DescribeSnapshotAttribute DescribeSnapshotTierStatus DescribeSnapshots \
    DescribeSpotDatafeedSubscription DescribeSpotFleetInstances DescribeSpotFleetRequestHistory DescribeSpotFleetRequests \
    DescribeSpotInstanceRequests DescribeSpotPriceHistory DescribeStaleSecurityGroups DescribeStoreImageTasks \
    DescribeSubnets DescribeTags DescribeTrafficMirrorFilterRules DescribeTrafficMirrorFilters \
    DescribeTrafficMirrorSessions DescribeTrafficMirrorTargets DescribeTransitGatewayAttachments \
    DescribeTransitGatewayConnectPeers DescribeTransitGatewayConnects DescribeTransitGatewayMeteringPolicies \
    DescribeTransitGatewayMulticastDomains DescribeTransitGatewayPeeringAttachments DescribeTransitGatewayPolicyTables \
    DescribeTransitGatewayRouteTableAnnouncements DescribeTransitGatewayRouteTables DescribeTransitGatewayVpcAttachments \
    DescribeTransitGateways DescribeTrunkInterfaceAssociations DescribeVerifiedAccessEndpoints \
    DescribeVerifiedAccessGroups DescribeVerifiedAccessInstanceLoggingConfigurations DescribeVerifiedAccessInstances \
    DescribeVerifiedAccessTrustProviders DescribeVolumeAttribute DescribeVolumeStatus DescribeVolumes \
    DescribeVolumesModifications DescribeVpcAttribute DescribeVpcBlockPublicAccessExclusions \
    DescribeVpcBlockPublicAccessOptions DescribeVpcClassicLink DescribeVpcClassicLinkDnsSupport \
    DescribeVpcEncryptionControls DescribeVpcEndpointAssociations DescribeVpcEndpointConnectionNotifications \
    DescribeVpcEndpointConnections DescribeVpcEndpointServiceConfigurations DescribeVpcEndpointServicePermissions \
    DescribeVpcEndpointServices DescribeVpcEndpoints DescribeVpcPeeringConnections DescribeVpcs DescribeVpnConcentrators \
    DescribeVpnConnections DescribeVpnGateways DetachClassicLinkVpc DetachInternetGateway DetachNetworkInterface \
    DetachVerifiedAccessTrustProvider DetachVolume DetachVpnGateway DisableAddressTransfer DisableAllowedImagesSettings \
    DisableAwsNetworkPerformanceMetricSubscription DisableCapacityManager DisableEbsEncryptionByDefault DisableFastLaunch \
    DisableFastSnapshotRestores DisableImage DisableImageBlockPublicAccess DisableImageDeprecation \
    DisableImageDeregistrationProtection DisableInstanceSqlHaStandbyDetections DisableIpamOrganizationAdminAccount \
    DisableIpamPolicy DisableRouteServerPropagation DisableSerialConsoleAccess DisableSnapshotBlockPublicAccess \
    DisableTransitGatewayRouteTablePropagation DisableVgwRoutePropagation DisableVpcClassicLink \
    DisableVpcClassicLinkDnsSupport DisassociateAddress DisassociateCapacityReservationBillingOwner \
    DisassociateClientVpnTargetNetwork DisassociateEnclaveCertificateIamRole DisassociateIamInstanceProfile \
    DisassociateInstanceEventWindow DisassociateIpamByoasn DisassociateIpamResourceDiscovery DisassociateNatGatewayAddress \
    DisassociateRouteServer DisassociateRouteTable DisassociateSecurityGroupVpc DisassociateSubnetCidrBlock \
    DisassociateTransitGatewayMulticastDomain DisassociateTransitGatewayPolicyTable DisassociateTransitGatewayRouteTable \
    DisassociateTrunkInterface DisassociateVpcCidrBlock EnableAddressTransfer EnableAllowedImagesSettings \
    EnableAwsNetworkPerformanceMetricSubscription EnableCapacityManager EnableEbsEncryptionByDefault EnableFastLaunch \
    EnableFastSnapshotRestores EnableImage EnableImageBlockPublicAccess EnableImageDeprecation \
    EnableImageDeregistrationProtection EnableInstanceSqlHaStandbyDetections EnableIpamOrganizationAdminAccount \
    EnableIpamPolicy EnableReachabilityAnalyzerOrganizationSharing EnableRouteServerPropagation EnableSerialConsoleAccess \
    EnableSnapshotBlockPublicAccess EnableTransitGatewayRouteTablePropagation EnableVgwRoutePropagation EnableVolumeIO \
    EnableVpcClassicLink EnableVpcClassicLinkDnsSupport ExportClientVpnClientCertificateRevocationList \
    ExportClientVpnClientConfiguration ExportImage ExportTransitGatewayRoutes \
    ExportVerifiedAccessInstanceClientConfiguration GetActiveVpnTunnelStatus GetAllowedImagesSettings \
    GetAssociatedEnclaveCertificateIamRoles GetAssociatedIpv6PoolCidrs GetAwsNetworkPerformanceData \
    GetCapacityManagerAttributes GetCapacityManagerMetricData GetCapacityManagerMetricDimensions \
    GetCapacityManagerMonitoredTagKeys GetCapacityReservationUsage GetCoipPoolUsage GetConsoleOutput GetConsoleScreenshot \
    GetDeclarativePoliciesReportSummary GetDefaultCreditSpecification GetEbsDefaultKmsKeyId GetEbsEncryptionByDefault \
    GetEnabledIpamPolicy GetFlowLogsIntegrationTemplate GetGroupsForCapacityReservation GetHostReservationPurchasePreview \
    GetImageAncestry GetImageBlockPublicAccessState GetInstanceMetadataDefaults GetInstanceTpmEkPub \
    GetInstanceTypesFromInstanceRequirements GetInstanceUefiData GetIpamAddressHistory GetIpamDiscoveredAccounts \
    GetIpamDiscoveredPublicAddresses GetIpamDiscoveredResourceCidrs GetIpamPolicyAllocationRules \
    GetIpamPolicyOrganizationTargets GetIpamPoolAllocations GetIpamPoolCidrs GetIpamPrefixListResolverRules \
    GetIpamPrefixListResolverVersionEntries GetIpamPrefixListResolverVersions GetIpamResourceCidrs GetLaunchTemplateData \
    GetManagedPrefixListAssociations GetManagedPrefixListEntries GetManagedResourceVisibility \
    GetNetworkInsightsAccessScopeAnalysisFindings GetNetworkInsightsAccessScopeContent GetPasswordData \
    GetReservedInstancesExchangeQuote GetRouteServerAssociations GetRouteServerPropagations GetRouteServerRoutingDatabase \
    GetSecurityGroupsForVpc GetSerialConsoleAccessStatus GetSnapshotBlockPublicAccessState GetSpotPlacementScores \
    GetSubnetCidrReservations GetTransitGatewayAttachmentPropagations GetTransitGatewayMeteringPolicyEntries \
    GetTransitGatewayMulticastDomainAssociations GetTransitGatewayPolicyTableAssociations \
    GetTransitGatewayPolicyTableEntries GetTransitGatewayPrefixListReferences GetTransitGatewayRouteTableAssociations \
    GetTransitGatewayRouteTablePropagations GetVerifiedAccessEndpointPolicy GetVerifiedAccessEndpointTargets \
    GetVerifiedAccessGroupPolicy GetVpcResourcesBlockingEncryptionEnforcement GetVpnConnectionDeviceSampleConfiguration \
    GetVpnConnectionDeviceTypes GetVpnTunnelReplacementStatus ImportClientVpnClientCertificateRevocationList ImportImage \
    ImportInstance ImportKeyPair ImportSnapshot ImportVolume ListImagesInRecycleBin ListSnapshotsInRecycleBin \
    ListVolumesInRecycleBin LockSnapshot ModifyAddressAttribute ModifyAvailabilityZoneGroup ModifyCapacityReservation \
    ModifyCapacityReservationFleet ModifyClientVpnEndpoint ModifyDefaultCreditSpecification ModifyEbsDefaultKmsKeyId \
    ModifyFleet ModifyFpgaImageAttribute ModifyHosts ModifyIdFormat ModifyIdentityIdFormat ModifyImageAttribute \
    ModifyInstanceAttribute ModifyInstanceCapacityReservationAttributes ModifyInstanceConnectEndpoint \
    ModifyInstanceCpuOptions ModifyInstanceCreditSpecification ModifyInstanceEventStartTime ModifyInstanceEventWindow \
    ModifyInstanceMaintenanceOptions ModifyInstanceMetadataDefaults ModifyInstanceMetadataOptions \
    ModifyInstanceNetworkPerformanceOptions ModifyInstancePlacement ModifyIpam ModifyIpamPolicyAllocationRules \
    ModifyIpamPool ModifyIpamPoolAllocation ModifyIpamPrefixListResolver ModifyIpamPrefixListResolverTarget \
    ModifyIpamResourceCidr ModifyIpamResourceDiscovery ModifyIpamScope ModifyLaunchTemplate ModifyLocalGatewayRoute \
    ModifyManagedPrefixList ModifyManagedResourceVisibility ModifyNetworkInterfaceAttribute ModifyPrivateDnsNameOptions \
    ModifyPublicIpDnsNameOptions ModifyReservedInstances ModifyRouteServer ModifySecurityGroupRules \
    ModifySnapshotAttribute ModifySnapshotTier ModifySpotFleetRequest ModifySubnetAttribute \
    ModifyTrafficMirrorFilterNetworkServices ModifyTrafficMirrorFilterRule ModifyTrafficMirrorSession ModifyTransitGateway \
    ModifyTransitGatewayMeteringPolicy ModifyTransitGatewayPrefixListReference ModifyTransitGatewayVpcAttachment \
    ModifyVerifiedAccessEndpoint ModifyVerifiedAccessEndpointPolicy ModifyVerifiedAccessGroup \
    ModifyVerifiedAccessGroupPolicy ModifyVerifiedAccessInstance ModifyVerifiedAccessInstanceLoggingConfiguration \
    ModifyVerifiedAccessTrustProvider ModifyVolume ModifyVolumeAttribute ModifyVpcAttribute \
    ModifyVpcBlockPublicAccessExclusion ModifyVpcBlockPublicAccessOptions ModifyVpcEncryptionControl ModifyVpcEndpoint \
    ModifyVpcEndpointConnectionNotification ModifyVpcEndpointServiceConfiguration \
    ModifyVpcEndpointServicePayerResponsibility ModifyVpcEndpointServicePermissions ModifyVpcPeeringConnectionOptions \
    ModifyVpcTenancy ModifyVpnConnection ModifyVpnConnectionOptions ModifyVpnTunnelCertificate ModifyVpnTunnelOptions \
    MonitorInstances MoveAddressToVpc MoveByoipCidrToIpam MoveCapacityReservationInstances ProvisionByoipCidr \
    ProvisionIpamByoasn ProvisionIpamPoolCidr ProvisionPublicIpv4PoolCidr PurchaseCapacityBlock \
    PurchaseCapacityBlockExtension PurchaseHostReservation PurchaseReservedInstancesOffering PurchaseScheduledInstances \
    RebootInstances RegisterImage RegisterInstanceEventNotificationAttributes RegisterTransitGatewayMulticastGroupMembers \
    RegisterTransitGatewayMulticastGroupSources RejectCapacityReservationBillingOwnership \
    RejectTransitGatewayClientVpnAttachment RejectTransitGatewayMulticastDomainAssociations \
    RejectTransitGatewayPeeringAttachment RejectTransitGatewayVpcAttachment RejectVpcEndpointConnections \
    RejectVpcPeeringConnection ReleaseAddress ReleaseHosts ReleaseIpamPoolAllocation ReplaceIamInstanceProfileAssociation \
    ReplaceImageCriteriaInAllowedImagesSettings ReplaceNetworkAclAssociation ReplaceNetworkAclEntry ReplaceRoute \
    ReplaceRouteTableAssociation ReplaceTransitGatewayRoute ReplaceVpnTunnel ReportInstanceStatus RequestSpotFleet \
    RequestSpotInstances ResetAddressAttribute ResetEbsDefaultKmsKeyId ResetFpgaImageAttribute ResetImageAttribute \
    ResetInstanceAttribute ResetNetworkInterfaceAttribute ResetSnapshotAttribute RestoreAddressToClassic \
    RestoreImageFromRecycleBin RestoreManagedPrefixListVersion RestoreSnapshotFromRecycleBin RestoreSnapshotTier \
    RestoreVolumeFromRecycleBin RevokeClientVpnIngress RevokeSecurityGroupEgress RevokeSecurityGroupIngress RunInstances \
    RunScheduledInstances SearchLocalGatewayRoutes SearchTransitGatewayMulticastGroups SearchTransitGatewayRoutes \
    SendDiagnosticInterrupt StartDeclarativePoliciesReport StartInstances StartNetworkInsightsAccessScopeAnalysis \
    StartNetworkInsightsAnalysis StartVpcEndpointServicePrivateDnsVerification StopInstances TerminateClientVpnConnections \
    TerminateInstances UnassignIpv6Addresses UnassignPrivateIpAddresses UnassignPrivateNatGatewayAddress UnlockSnapshot \
    UnmonitorInstances UpdateCapacityManagerMonitoredTagKeys UpdateCapacityManagerOrganizationsAccess \
    UpdateInterruptibleCapacityReservationAllocation UpdateSecurityGroupRuleDescriptionsEgress \
    UpdateSecurityGroupRuleDescriptionsIngress WithdrawByoipCidr";

/// Actions of `sts`: 15.
const STS: &str = "\
    AssumeRole AssumeRoleWithSAML AssumeRoleWithWebIdentity AssumeRoot DecodeAuthorizationMessage GetAccessKeyInfo \
    GetCallerIdentity GetDelegatedAccessToken GetFederationToken GetServiceBearerToken GetSessionToken GetWebIdentityToken \
    SetContext SetSourceIdentity TagSession";

/// Actions of `tag`: 9.
const TAG: &str = "\
    DescribeReportCreation GetComplianceSummary GetResources GetTagKeys GetTagValues ListRequiredTags StartReportCreation \
    TagResources UntagResources";

/// Actions that a role's trust policy can allow here: there are no federated users.
const TRUST: &str = "AssumeRole SetSourceIdentity TagSession";

const SERVICES: [(&str, &str); 6] =
    [("cloudtrail", CLOUDTRAIL), ("ebs", EBS), ("ec2", EC2), ("kms", KMS), ("sts", STS), ("tag", TAG)];

/// Operations of `kms` that use no key of the caller's choice: those without a key as their resource.
const WITHOUT_KEY: &str = "ConnectCustomKeyStore CreateCustomKeyStore CreateKey DeleteCustomKeyStore DescribeCustomKeyStores \
    DisconnectCustomKeyStore GenerateRandom ListAliases ListKeys ListRetirableGrants UpdateCustomKeyStore";

impl Kind {
    /// The services whose actions such a policy can name, and the actions.
    fn services(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Key => &[("kms", KMS)],
            Self::Identity => &SERVICES,
            Self::Trust => &[("sts", TRUST)],
        }
    }

    /// Whether such a policy can name a service that coffer does not have.
    pub(super) const fn has_other_services(self) -> bool {
        matches!(self, Self::Identity)
    }

    /// All actions that such a policy can name, with their services.
    pub(super) fn actions(self) -> impl Iterator<Item = String> {
        let of = |(service, names): &(&'static str, &'static str)| {
            let service = *service;
            names.split_whitespace().map(move |name| format!("{service}:{name}"))
        };
        self.services().iter().flat_map(of)
    }

    /// Whether a pattern such as `kms:Decrypt` or `kms:*Grant*` matches at least one action, or one of a service that coffer
    /// does not have.
    pub(super) fn names_an_action(self, pattern: &str) -> bool {
        let Some((service, name)) = pattern.split_once(':') else { return pattern == "*" };
        match self.services().iter().find(|(known, _)| known.eq_ignore_ascii_case(service)) {
            Some((_, names)) if name.contains(['*', '?']) => names.split_whitespace().any(|a| wild(name, a, true)),
            Some((_, names)) => names.split_whitespace().any(|a| a.eq_ignore_ascii_case(name)),
            None => self.has_other_services(),
        }
    }

    /// Whether an action could match a pattern: the part before its first wildcard is a prefix of one.
    pub(super) fn could_name_an_action(self, pattern: &str) -> bool {
        match pattern.find(['*', '?']) {
            Some(at) => self.names_an_action(&format!("{}*", &pattern[..at])),
            None => self.names_an_action(pattern),
        }
    }

    /// Whether coffer has the service, so that the spelling of its names is checked.
    pub(super) fn knows(service: &str) -> bool {
        SERVICES.iter().any(|(known, _)| known.eq_ignore_ascii_case(service))
    }
}

/// Whether an action of `kms` uses a key: then its requests have the properties of the key.
pub(super) fn uses_a_key(action: &str) -> bool {
    let name = action.strip_prefix("kms:");
    name.is_some_and(|name| !WITHOUT_KEY.split_whitespace().any(|other| other == name))
}
